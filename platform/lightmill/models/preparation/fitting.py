"""Fitting one step: an accumulator that takes tables, adds up with others, and ends in a fitted step.

Accumulators pickle, hold sums instead of rows (a deduplication holds signatures), and end in the same fitted step
whatever the order and the size of the tables.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.columns import column_of
from lightmill.models.preparation.counts import Counts
from lightmill.models.preparation.duplicates import DuplicateSearch
from lightmill.models.preparation.numeric import NumericRun
from lightmill.models.preparation.quantiles import Histogram
from lightmill.models.preparation.sums import Extremes, Moments
from lightmill.models.preparation.tokens import embed
from lightmill.records.fitted import (
    FittedClip,
    FittedImpute,
    FittedMinMax,
    FittedOneHot,
    FittedOrdinal,
    FittedStandardize,
    FittedStep,
)
from lightmill.records.preparation import (
    Category,
    Clip,
    Deduplicate,
    Impute,
    MinMax,
    OneHot,
    Ordinal,
    Standardize,
    Step,
    Tokenize,
)

Fitting = Impute | Clip | Standardize | MinMax | OneHot | Ordinal | Deduplicate
StepT = TypeVar("StepT", bound=Impute | Clip | Standardize | MinMax | OneHot | Ordinal)


class Accumulator(ABC):
    """What a fit gathers from tables; those of one step add up."""

    @abstractmethod
    def add(self, table: pa.Table) -> None:
        """Take a table.

        Raises:
            RequestError: A column is missing, of the wrong type, holds an infinity or too many different values.
        """

    @abstractmethod
    def __add__(self, other: Any) -> Self: ...

    @abstractmethod
    def finish(self) -> FittedStep:
        """Return the fitted step.

        Raises:
            RequestError: A column has no value to fit on, or what was found is not finite.
        """

    def completed(self, steps: Mapping[int, FittedStep]) -> Accumulator:
        """Return this with what `steps`, by place, fill in for missing values; see `begin`."""
        return self

    def dropped(self) -> npt.NDArray[np.int64] | None:
        """Return the ids of the rows that the step leaves out, int64, rising; None if it leaves out none ever."""
        return None


def fitted_from_data(step: Step) -> bool:
    """Whether a step must see the data before it can be applied."""
    match step:
        case Impute():
            return step.method != "constant"
        case Clip():
            return step.lower_quantile is not None or step.upper_quantile is not None
        case OneHot() | Ordinal():
            return step.values is None
        case Standardize() | MinMax() | Deduplicate():
            return True
        case _:
            return False


def settled(step: Step, folder: Path) -> FittedStep:
    """Return the fitted form of a step that needs no data; a tokenizer's path is relative to `folder`.

    Raises:
        NotFoundError: There is no tokenizer file.
        RequestError: It is no tokenizer, or the package is not installed.
        TypeError: The step needs data.
    """
    match step:
        case Impute(value=value) if value is not None:
            values = (value,) * len(step.columns)
            return FittedImpute(columns=step.columns, values=values, indicator=step.indicator)
        case Clip(lower_quantile=None, upper_quantile=None):
            many = len(step.columns)
            return FittedClip(columns=step.columns, minimum=(step.minimum,) * many, maximum=(step.maximum,) * many)
        case OneHot(values=tuple(values)):
            return FittedOneHot(columns=step.columns, categories=(values,) * len(step.columns), unknown=step.unknown)
        case Ordinal(values=tuple(values)):
            return FittedOrdinal(columns=step.columns, categories=(values,) * len(step.columns), unknown=step.unknown)
        case Tokenize():
            return embed(step, folder)
        case Impute() | Clip() | OneHot() | Ordinal() | Standardize() | MinMax() | Deduplicate():
            raise TypeError(f"step {step.step!r} is fitted from data")
        case _:
            return step


def begin(step: Fitting, filled: Mapping[str, int] | None = None) -> Accumulator:
    """Return an empty accumulator for a step that is fitted from data.

    Args:
        step: What to fit.
        filled: Columns that come as they are before an `impute`, and the place of that step, which is fitted in the
            same pass. What it fills in is counted at the end by `Accumulator.completed`, to the same bits.
    """
    made = _begun(step)
    if filled:
        if not isinstance(made, _ByColumn):
            raise TypeError(f"step {step.step!r} cannot wait for an impute")
        made.gaps = {name: _Gaps(place=place) for name, place in filled.items()}
    return made


def _begun(step: Fitting) -> Accumulator:
    match step:
        case Deduplicate():
            return _Duplicates(step)
        case Standardize():
            return _Standardize(step, {name: Moments() for name in step.columns})
        case MinMax():
            return _MinMax(step, {name: Extremes() for name in step.columns})
        case Clip():
            return _Clip(step, {name: Histogram() for name in step.columns})
        case OneHot() | Ordinal():
            return _Encode(step, {name: Counts() for name in step.columns})
        case Impute(method="mean"):
            return _Mean(step, {name: Moments(squares=False) for name in step.columns})
        case Impute(method="median"):
            return _Median(step, {name: Histogram() for name in step.columns})
        case Impute():
            return _MostFrequent(step, {name: Counts() for name in step.columns})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gaps:
    """How many values of a column of type `kind` are missing, which the step at `place` will fill."""

    place: int
    rows: int = 0
    kind: pa.DataType | None = None

    def more(self, rows: int, kind: pa.DataType | None) -> _Gaps:
        """Return this with more missing values."""
        known = self.kind is not None and not pa.types.is_null(self.kind)
        return _Gaps(place=self.place, rows=self.rows + rows, kind=self.kind if known or kind is None else kind)

    def value(self, steps: Mapping[int, FittedStep], name: str) -> pa.ChunkedArray:
        """Return one value as the step fills it in: in the type that it gives the column."""
        step = steps[self.place]
        if not isinstance(step, FittedImpute):
            raise TypeError(f"step {step.step!r} fills nothing in")
        alone = FittedImpute(columns=(name,), values=(step.values[step.columns.index(name)],))
        return NumericRun([alone])(pa.table({name: pa.nulls(1, self.kind)})).column(name)


class _ByColumn(Accumulator, Generic[StepT]):
    """One summary for each column."""

    def __init__(self, step: StepT, columns: dict[str, Any]) -> None:
        self.step = step
        self.columns = columns
        self.gaps: dict[str, _Gaps] = {}

    def add(self, table: pa.Table) -> None:
        for name, summary in self.columns.items():
            column, before = column_of(table, name, self.step.step), summary.count
            summary.add(column, name, self.step.step)
            if name in self.gaps:
                missing = len(column) - (summary.count - before)
                self.gaps[name] = self.gaps[name].more(missing, column.type)

    def __add__(self, other: Any) -> Self:
        both = type(self)(self.step, {name: mine + other.columns[name] for name, mine in self.columns.items()})
        both.gaps = {name: mine.more(other.gaps[name].rows, other.gaps[name].kind) for name, mine in self.gaps.items()}
        return both

    def completed(self, steps: Mapping[int, FittedStep]) -> Accumulator:
        columns = dict(self.columns)
        for name, gaps in self.gaps.items():
            if gaps.rows:
                one = type(columns[name])()
                one.add(gaps.value(steps, name), name, self.step.step)
                columns[name] = columns[name] + one.times(gaps.rows)
        return type(self)(self.step, columns)

    def known(self) -> list[Any]:
        """Return the summaries in order, after a check that each has seen a value."""
        for name, summary in self.columns.items():
            if not summary.count:
                raise RequestError(
                    f"Step {self.step.step!r}: column {name!r} has no value in the training split, so there is nothing "
                    "to fit on. Leave the column out, impute a constant first, or enlarge split.train."
                )
        return list(self.columns.values())

    def finite(self, values: list[float]) -> tuple[float, ...]:
        """Return the values, after a check that a record can carry them."""
        for name, value in zip(self.columns, values, strict=True):
            if not math.isfinite(value):
                raise RequestError(
                    f"Step {self.step.step!r}: what is fitted to column {name!r} is not finite ({value}). Put a `clip` "
                    "with fixed limits before."
                )
        return tuple(values)


class _Standardize(_ByColumn[Standardize]):
    def finish(self) -> FittedStandardize:
        found = [summary.mean_and_std() for summary in self.known()]
        return FittedStandardize(
            columns=self.step.columns,
            mean=tuple(mean for mean, _ in found),
            scale=tuple(std or 1.0 for _, std in found),
        )


class _MinMax(_ByColumn[MinMax]):
    def finish(self) -> FittedMinMax:
        step, found = self.step, self.known()
        spread = self.finite([summary.maximum - summary.minimum for summary in found])
        return FittedMinMax(
            columns=step.columns,
            minimum=tuple(summary.minimum for summary in found),
            range=tuple(width or 1.0 for width in spread),
            low=step.low,
            high=step.high,
        )


class _Clip(_ByColumn[Clip]):
    def finish(self) -> FittedClip:
        step, found = self.step, self.known()

        def limits(share: float | None) -> tuple[float | None, ...]:
            if share is None:
                return (None,) * len(found)
            return self.finite([summary.quantile(share) for summary in found])

        return FittedClip(
            columns=step.columns, minimum=limits(step.lower_quantile), maximum=limits(step.upper_quantile)
        )


class _Impute(_ByColumn[Impute]):
    def filled(self, values: list[Any]) -> FittedImpute:
        """Return the fitted step."""
        step = self.step
        return FittedImpute(columns=step.columns, values=tuple(values), indicator=step.indicator)


class _Mean(_Impute):
    def finish(self) -> FittedImpute:
        return self.filled([summary.mean() for summary in self.known()])


class _Median(_Impute):
    def finish(self) -> FittedImpute:
        return self.filled(list(self.finite([summary.quantile(0.5) for summary in self.known()])))


class _MostFrequent(_Impute):
    def finish(self) -> FittedImpute:
        values = [summary.ranked()[0] for summary in self.known()]
        self.finite([value if isinstance(value, float) else 0.0 for value in values])
        return self.filled(values)


class _Encode(_ByColumn[OneHot | Ordinal]):
    def finish(self) -> FittedOneHot | FittedOrdinal:
        step = self.step
        found = tuple(
            self._categories(step, name, summary) for name, summary in zip(step.columns, self.known(), strict=True)
        )
        if isinstance(step, OneHot):
            return FittedOneHot(columns=step.columns, categories=found, unknown=step.unknown)
        return FittedOrdinal(columns=step.columns, categories=found, unknown=step.unknown)

    def _categories(self, step: OneHot | Ordinal, name: str, counts: Counts) -> tuple[Category, ...]:
        ranked = counts.ranked(at_least=step.min_count)[: step.max_categories]
        kept = [value for value in ranked if not isinstance(value, float)]
        if len(kept) < len(ranked):
            raise RequestError(
                f"Step {step.step!r}: column {name!r} holds floats, which are no categories. Declare it as integers or "
                "text."
            )
        if not kept:
            raise RequestError(
                f"Step {step.step!r}: no category of column {name!r} occurs {step.min_count} times in the training "
                "split. Lower min_count."
            )
        return tuple(sorted(kept))


class _Duplicates(Accumulator):
    def __init__(self, step: Deduplicate) -> None:
        self._step = step
        self._search = DuplicateSearch(step)

    def add(self, table: pa.Table) -> None:
        self._search.add(table)

    def __add__(self, other: Any) -> Self:
        both = type(self)(self._step)
        both._search = self._search + other._search
        return both

    def finish(self) -> FittedStep:
        return self._search.finish()

    def dropped(self) -> npt.NDArray[np.int64]:
        return self._search.duplicates()
