"""Verdicts on rows, what they add up to over blocks, and the refusal that names the first offender."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lightmill.errors import RequestError
from lightmill.records.quality import ExpectSpec, RulesSpec

KEPT, MISSING, OUT_OF_RANGE, NOT_ALLOWED, DUPLICATE, TYPE, PATTERN, TOO_LONG, INFINITE, NOT_UNIQUE, UNREADABLE = range(
    11
)
REASONS = (
    "kept",
    "missing value",
    "out of range",
    "value not allowed",
    "duplicate row",
    "value of another type",
    "pattern does not match",
    "value too long",
    "infinite value",
    "value not unique",
    "unreadable",
)
RULE_OF = {
    MISSING: "missing",
    OUT_OF_RANGE: "out_of_range",
    NOT_ALLOWED: "out_of_range",
    DUPLICATE: "duplicates",
    TYPE: "type",
    PATTERN: "out_of_range",
    TOO_LONG: "out_of_range",
    INFINITE: "out_of_range",
    NOT_UNIQUE: "unique",
    UNREADABLE: "unreadable",
}
PRECEDENCE = (UNREADABLE, TYPE, MISSING, NOT_ALLOWED, PATTERN, TOO_LONG, INFINITE, OUT_OF_RANGE, NOT_UNIQUE, DUPLICATE)
Locate = Callable[[int], tuple[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How many rows have one fault in one column, the smallest row id among them, and what is wrong with that row.

    `why` is for rows that could not be read, of which the reason alone says little; it holds no value.
    """

    rows: int
    first: int
    why: str = ""

    def __add__(self, other: Finding) -> Finding:
        first, why = min((self.first, self.why), (other.first, other.why))
        return Finding(rows=self.rows + other.rows, first=first, why=why)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What an expectation needs of a column, over rows that hold to the schema.

    `values` and `total` are the number and the sum of its values (the sum up to rounding,
    whatever the order of blocks), `matches` how many rows hold each of the values whose share is expected.
    """

    rows: int = 0
    values: int = 0
    total: float = 0.0
    matches: tuple[int, ...] = ()

    def __add__(self, other: Measure) -> Measure:
        return Measure(
            rows=self.rows + other.rows,
            values=self.values + other.values,
            total=self.total + other.total,
            matches=tuple(a + b for a, b in zip(self.matches, other.matches, strict=True)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts of one or more blocks; they add up in any order.

    `faults` goes by (reason, column name, or "" where no column is to blame); `nulls` and `clipped` by column name,
    and hold no zeros. Memory: a few hundred bytes for each column, whatever the number of rows.
    """

    rows: int = 0
    faults: dict[tuple[int, str], Finding] = field(default_factory=dict)
    nulls: dict[str, int] = field(default_factory=dict)
    clipped: dict[str, int] = field(default_factory=dict)
    measures: dict[str, Measure] = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        faults = dict(self.faults)
        for key, found in other.faults.items():
            faults[key] = faults[key] + found if key in faults else found
        measures = dict(self.measures)
        for name, measure in other.measures.items():
            measures[name] = measures[name] + measure if name in measures else measure
        return Tally(
            rows=self.rows + other.rows,
            faults=faults,
            nulls=_added(self.nulls, other.nulls),
            clipped=_added(self.clipped, other.clipped),
            measures=measures,
        )

    def with_fault(self, reason: int, rows: npt.NDArray[np.int64], column: str = "") -> Tally:
        """Return this tally with a fault that only the whole dataset shows, such as repeated rows (`rows`: row ids)."""
        if not len(rows):
            return self
        found = Finding(rows=len(rows), first=int(rows.min()))
        return self + Tally(faults={(reason, column): found})

    def by_reason(self) -> dict[str, int]:
        """Return the number of rows by reason, as text, in the order of the reasons."""
        totals = dict.fromkeys(sorted({code for code, _ in self.faults}), 0)
        for (code, _), found in self.faults.items():
            totals[code] += found.rows
        return {REASONS[code]: count for code, count in totals.items()}


def _added(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {**a, **{name: a.get(name, 0) + count for name, count in b.items()}}


def action_for(reason: int, rules: RulesSpec) -> str:
    """Return what the rules say of a reason: `fail`, `drop`, `quarantine` or `keep`.

    What `clip` cannot mend is dropped.
    """
    action: str = getattr(rules, RULE_OF[reason])
    return "drop" if action == "clip" else action


def refuse(tally: Tally, rules: RulesSpec, locate: Locate) -> None:
    """Raise if a rule says `fail` and a row breaks it.

    Args:
        tally: The counts of all blocks.
        rules: The rules of the specification.
        locate: Gives the file and the row number in it, from 1, for a row id.

    Raises:
        RequestError: A rule that says `fail` is broken; names the fault that comes first in the source.
    """
    broken = [
        (found.first, PRECEDENCE.index(code), code, column, found.why, found.rows)
        for (code, column), found in tally.faults.items()
        if action_for(code, rules) == "fail"
    ]
    if not broken:
        return
    first, _, code, column, why, count = min(broken)
    file, row = locate(first)
    rule = RULE_OF[code]
    where = f" in column {column!r}" if column else ""
    more = sum(entry[-1] for entry in broken) - count
    raise RequestError(
        f"{_rows(count)} {'has' if count == 1 else 'have'} a fault ({REASONS[code]}{where}), first {file} row {row}"
        f"{f' ({why})' if why else ''}, and rules.{rule} is 'fail'"
        + (f"; {_rows(more)} {'has' if more == 1 else 'have'} other faults" if more else "")
        + f". Correct the source, or set rules.{rule} to {_remedy(rule)}."
    )


def _rows(count: int) -> str:
    return f"{count} row" + ("" if count == 1 else "s")


def _remedy(rule: str) -> str:
    extra = {"out_of_range": ", 'clip'", "duplicates": ", 'keep'"}.get(rule, "")
    return f"'drop'{extra} or 'quarantine'"


def check_nulls(tally: Tally, limits: dict[str, float]) -> None:
    """Raise if a column lacks more values than its `max_nulls` (by column name) says.

    Raises:
        RequestError: A column has a larger share of nulls over all rows that were read.
    """
    for name, limit in limits.items():
        nulls = tally.nulls.get(name, 0)
        if tally.rows and nulls > limit * tally.rows:
            raise RequestError(
                f"Column {name!r} lacks {nulls} of {tally.rows} values ({nulls / tally.rows:.4g}), and its max_nulls "
                f"is {limit:g}. Correct the source, or raise max_nulls."
            )


def check_expectations(expect: ExpectSpec, tally: Tally, kept: int) -> None:
    """Raise if the whole dataset does not look as expected; `kept` is the number of rows that stay.

    Means and shares are over the rows that hold to the schema, repeated rows included.

    Raises:
        RequestError: The number of rows, a mean or a share lies outside its bounds.
    """
    if not expect.rows.admits(kept):
        raise RequestError(
            f"The dataset keeps {_rows(kept)}; expect.rows is {expect.rows}. Correct the source, or change expect.rows."
        )
    for name, wanted in expect.columns.items():
        measure = tally.measures.get(name, Measure(matches=(0,) * len(wanted.shares)))
        found = [("mean", wanted.mean, measure.total, measure.values)]
        shares = zip(wanted.shares.items(), measure.matches, strict=True)
        found += [(f"shares.{value}", bounds, count, measure.rows) for (value, bounds), count in shares]
        for what, bounds, amount, rows in found:
            value = amount / rows if rows else float("nan")
            if bounds is not None and not bounds.admits(value):
                raise RequestError(
                    f"Column {name!r} has {what} {value:.6g}; expect.columns.{name}.{what} is {bounds}. "
                    "Correct the source, or change the expectation."
                )


def bad_rows(verdict: npt.NDArray[np.int8], rules: RulesSpec, action: str) -> npt.NDArray[np.int64]:
    """Return the positions of the rows with a fault for which the rules say `action`."""
    codes: Sequence[int] = [code for code in RULE_OF if action_for(code, rules) == action]
    return np.flatnonzero(np.isin(verdict, np.array(codes, dtype=np.int8)))
