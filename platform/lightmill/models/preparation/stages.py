"""How many passes over the data a fit takes, and what happens in each.

A step is fitted in the first pass in which everything before it that it depends on is known: the steps that write a
column which it reads, and those that decide which rows there are. Steps that do not depend on one another share a
pass, and so do an `impute` and a step behind it that takes sums or counts of the same column: what is filled in is one
value, which is counted as often as one was missing. `augment` is left out: steps behind it are fitted on rows as they
are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.applying import Apply, Ids, Resources, ready
from lightmill.models.preparation.fitting import Accumulator, begin, fitted_from_data, settled
from lightmill.models.preparation.syntax import columns_in, parse
from lightmill.records.fitted import (
    CHANGES_ROWS,
    FittedDeduplicate,
    FittedImpute,
    FittedPreparation,
    FittedStep,
    FittedTokenize,
)
from lightmill.records.preparation import (
    Augment,
    Clip,
    Deduplicate,
    Derive,
    Features,
    Filter,
    ImageDecode,
    ImageResize,
    Impute,
    MinMax,
    OneHot,
    Ordinal,
    Pack,
    Python,
    Standardize,
    Step,
    Tokenize,
)

Names = frozenset[str] | None  # None: all columns, whatever they are called


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One pass over the data: the places of the steps that are fitted in it, and of those applied on the way."""

    number: int
    fits: tuple[int, ...]
    applies: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What fitting found, by the place of the step: its fitted form, and the rows that it leaves out."""

    steps: Mapping[int, FittedStep] = field(default_factory=dict)
    dropped: Mapping[int, Ids] = field(default_factory=dict)

    def __or__(self, other: Found) -> Found:
        return Found(steps={**self.steps, **other.steps}, dropped={**self.dropped, **other.dropped})

    def record(self) -> FittedPreparation:
        """Return the fitted preparation; every step has been fitted."""
        return FittedPreparation(steps=tuple(self.steps[place] for place in range(len(self.steps))))


def stages(declared: Sequence[Step]) -> tuple[Stage, ...]:
    """Return the passes that fitting takes, as few as the steps allow; none if no step is fitted from data.

    Raises:
        RequestError: An expression is not in the language.
    """
    plan = _plan(declared)
    return tuple(
        Stage(
            number=number,
            fits=tuple(place for place, level in plan.fits_in.items() if level == number),
            applies=_applied(declared, plan, number),
        )
        for number in range(max(plan.fits_in.values(), default=-1) + 1)
    )


class StageFitter:
    """One pass made ready: `measure` each table wherever it is, add the results up, `finish`. It pickles small."""

    def __init__(
        self, declared: Sequence[Step], stage: Stage, known: Found, resources: Resources | None = None
    ) -> None:
        """Prepare the pass; `known` has the fitted form of every step that the stage applies."""
        self._declared = tuple(declared)
        self._stage = stage
        self._filled = _plan(declared).filled
        self._known = known
        self._resources = resources or Resources()
        self._ready: dict[int, Apply] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_ready": {}}

    def measure(self, table: pa.Table) -> StageSums:
        """Return what a table of the training split adds to the fit.

        Raises:
            RequestError: The table does not fit a step.
        """
        found: dict[int, Accumulator] = {}
        for place in sorted((*self._stage.fits, *self._stage.applies)):
            if place in self._stage.applies:
                table = self._apply(place, table)
                continue
            found[place] = self._begin(place)
            found[place].add(table)
        return StageSums(found)

    def begin(self) -> StageSums:
        """Return the sums of no rows, to which those of tables are added."""
        return StageSums({place: self._begin(place) for place in self._stage.fits})

    def _begin(self, place: int) -> Accumulator:
        step = self._declared[place]
        if not isinstance(step, Impute | Clip | Standardize | MinMax | OneHot | Ordinal | Deduplicate):
            raise TypeError(f"step {step.step!r} is not fitted from data")
        return begin(step, self._filled.get(place))

    def _apply(self, place: int, table: pa.Table) -> pa.Table:
        if place not in self._ready:
            dropped = self._known.dropped.get(place, np.empty(0, dtype=np.int64))
            self._ready[place] = ready(self._known.steps[place], self._resources, dropped)
        return self._ready[place](table)


class StageSums:
    """The accumulators of one pass; they add up in any order, and pickle."""

    def __init__(self, accumulators: dict[int, Accumulator]) -> None:
        self._accumulators = accumulators

    def __add__(self, other: StageSums) -> StageSums:
        mine, others = self._accumulators, other._accumulators
        return StageSums({place: mine[place] + others[place] for place in mine})

    def finish(self) -> Found:
        """Return what the pass found.

        Raises:
            RequestError: There was nothing to fit on.
        """
        dropped = {place: part.dropped() for place, part in self._accumulators.items()}
        steps: dict[int, FittedStep] = {}
        for place in sorted(self._accumulators):
            steps[place] = self._accumulators[place].completed(steps).finish()
        return Found(
            steps=steps,
            dropped={place: ids for place, ids in dropped.items() if ids is not None},
        )


def settle(declared: Sequence[Step], folder: Path) -> Found:
    """Return the fitted form of every step that needs no data; see `fitting.settled` for errors."""
    return Found(
        steps={place: settled(step, folder) for place, step in enumerate(declared) if not fitted_from_data(step)}
    )


def fit(
    declared: Sequence[Step],
    tables: Callable[[], Iterable[pa.Table]],
    *,
    folder: Path,
    resources: Resources | None = None,
) -> Found:
    """Fit all steps in this process; `tables` gives the training split anew for every pass.

    Raises:
        NotFoundError: A tokenizer file is not in `folder`.
        RequestError: A table does not fit a step, or there is nothing to fit on.
    """
    known = settle(declared, folder)
    for stage in stages(declared):
        fitter = StageFitter(declared, stage, known, resources)
        total = fitter.begin()
        for table in tables():
            total = total + fitter.measure(table)
        known = known | total.finish()
    return known


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Of each fitted step the pass in which it is, of every step the first pass in which it can be applied.

    `filled` are, for fitted steps, the columns that they take as they are before an `impute` of the same pass, with
    the place of that step.
    """

    fits_in: dict[int, int]
    ready_in: list[int]
    filled: dict[int, dict[str, int]]


def _plan(declared: Sequence[Step]) -> _Plan:
    plan = _Plan(fits_in={}, ready_in=[], filled={})
    columns: dict[str, int] = {}
    imputed: dict[str, int] = {}  # columns, and the step that filled them last, of the rows that there are now
    others, rows = 0, 0
    for place, step in enumerate(declared):
        read, written = reads(step), writes(step)
        waits = {
            name: imputed[name] for name in read if name in imputed and _takes_one_value(step, declared, imputed[name])
        }
        used = (plan.fits_in[waits[name]] if name in waits else columns.get(name, others) for name in read)
        level = max(rows, 0, *used)
        if fitted_from_data(step):
            plan.fits_in[place] = level
            plan.filled[place] = {name: at for name, at in waits.items() if plan.fits_in[at] == level}
            level += 1
        plan.ready_in.append(level)
        if written is None:
            columns, imputed, others = {}, {}, level
        else:
            columns.update(dict.fromkeys(written, level))
            imputed = {name: at for name, at in imputed.items() if name not in written}
        if step.step in CHANGES_ROWS:
            rows, imputed = level, {}
        if isinstance(step, Impute) and place in plan.fits_in:
            imputed |= dict.fromkeys(step.columns, place)
    return plan


def _takes_one_value(step: Step, declared: Sequence[Step], imputing: int) -> bool:
    """Whether the fit of a step can count what an `impute` fills in as one value, without seeing it in its places."""
    if not fitted_from_data(step):
        return False
    if isinstance(step, OneHot | Ordinal):  # another value than the column's own could change its type
        before = declared[imputing]
        return isinstance(before, Impute) and before.method == "most_frequent"
    return isinstance(step, Standardize | MinMax | Clip)


def _applied(declared: Sequence[Step], plan: _Plan, number: int) -> tuple[int, ...]:
    """Return the steps to apply in a pass: ready, before a fitted step, and of consequence for it."""
    kept: list[int] = []
    wanted: set[str] = set()
    for place in range(max(p for p, level in plan.fits_in.items() if level == number), -1, -1):
        step = declared[place]
        read, written = reads(step), writes(step)
        if plan.fits_in.get(place) != number:
            matters = written is None or bool(wanted & written) or step.step in CHANGES_ROWS
            if plan.ready_in[place] > number or not matters or isinstance(step, Augment):
                continue
            kept.append(place)
        wanted |= read
    return tuple(reversed(kept))


def reads(step: Step | FittedStep) -> frozenset[str]:
    """Return the columns that a step needs."""
    match step:
        case Filter():
            return columns_in(parse(step.where))
        case Derive():
            return columns_in(parse(step.value))
        case Tokenize() | ImageDecode() | ImageResize() | Pack():
            return frozenset({step.column})
        case FittedTokenize():
            return frozenset({step.declared.column})
        case FittedDeduplicate():
            return frozenset(step.declared.columns)
        case _:
            return frozenset(step.columns)


def writes(step: Step | FittedStep) -> Names:
    """Return the columns that a step makes or changes; None for all that it likes."""
    match step:
        case Impute() | FittedImpute():
            return frozenset(step.columns) | {f"{name}_missing" for name in step.columns if step.indicator}
        case FittedTokenize():
            return writes(step.declared)
        case Tokenize():
            return frozenset({step.output} | ({f"{step.output}_mask"} if step.mask else set()))
        case Derive() | ImageDecode() | ImageResize():
            return frozenset({step.column})
        case Features():
            return frozenset({step.name}) | (frozenset() if step.keep else frozenset(step.columns))
        case Filter() | Deduplicate() | FittedDeduplicate() | Augment():
            return frozenset()
        case Python():
            return frozenset(column.name for column in step.makes)
        case Pack():
            return None
        case _:
            return frozenset(step.columns)


def check_order(declared: Sequence[Step]) -> None:
    """Check what can be checked of a declared preparation without data.

    Raises:
        RequestError: An expression or a pattern is refused, a step stands behind `pack`, which leaves no columns but
            token ids, or one that changes the number of rows behind `augment`.
    """
    stages(declared)
    names = [step.step for step in declared]
    late = names[names.index("augment") :] if "augment" in names else []
    changing = [name for name in late if name in CHANGES_ROWS]
    if changing:
        raise RequestError(
            f"Step {changing[0]!r} must stand before 'augment': what follows that applies whenever rows are read, and "
            "must keep every row."
        )
    if "pack" in names and names.index("pack") < len(names) - 1:
        after = names[names.index("pack") + 1]
        raise RequestError(
            f"Step 'pack' must be the last one, since only token ids are left; {after!r} stands behind it."
        )
