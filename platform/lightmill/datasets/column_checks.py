"""The checks of one declared column: convert, then find what is missing, not allowed, too long or out of range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

from lightmill.datasets.arrays import lengths
from lightmill.datasets.conversion import convert
from lightmill.datasets.verdicts import INFINITE, MISSING, NOT_ALLOWED, OUT_OF_RANGE, PATTERN, TOO_LONG, TYPE
from lightmill.errors import RequestError
from lightmill.records.quality import FLOATS, INTEGERS, TEMPORALS, ColumnRule, RulesSpec

pc: Any = compute  # pyarrow makes these functions at import; type checkers do not see them

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A column's converted (and clipped) values, and for each kind of fault bool [rows]; one row may have several."""

    values: pa.Array
    faults: list[tuple[int, Mask]]
    clipped: int = 0


class ColumnCheck:
    """The checks of one declaration."""

    def __init__(self, column: ColumnRule, rules: RulesSpec) -> None:
        self._column = column
        self._clip = rules.out_of_range == "clip" and column.scalar in (*INTEGERS, *FLOATS) and not column.container
        self._low, self._high = _limit(column, "minimum"), _limit(column, "maximum")
        self._values = _value_set(column)
        self._pattern = None if column.pattern is None else rf"\A(?:{column.pattern})\z"
        if self._pattern:
            try:
                pc.match_substring_regex(pa.array([""]), self._pattern)
            except pa.ArrowInvalid as exc:
                raise RequestError(f"The pattern of column {column.name!r} is outside RE2: {exc}.") from exc

    def apply(self, source: pa.Array) -> Checked:
        """Convert and check the values of a block."""
        values, failed = convert(source, self._column)
        faults: list[tuple[int, Mask]] = [(TYPE, failed)]
        if values.null_count and self._column.required:
            faults.append((MISSING, values.is_null().to_numpy(zero_copy_only=False) & ~failed))
        if self._values is not None:
            allowed = pc.is_in(values, value_set=self._values, skip_nulls=False)
            if allowed.true_count < len(values) - values.null_count:
                faults.append((NOT_ALLOWED, _true(pc.invert(allowed), values)))
        if self._pattern is not None:
            faults.append(
                (PATTERN, self._by_row(values, lambda inner: pc.invert(pc.match_substring_regex(inner, self._pattern))))
            )
        if self._column.max_length is not None and not self._is_short(values):
            faults.append((TOO_LONG, _true(pc.greater(lengths(values), self._column.max_length), values)))
        clipped = 0
        if self._clip and (self._low is not None or self._high is not None):
            values, clipped = _clipped(values, self._low, self._high)
        if not self._is_inside(values):
            if self._column.finite and self._column.scalar in FLOATS:
                faults.append((INFINITE, self._by_row(values, pc.is_inf)))
            if not self._clip:
                faults += self._range(values)
        return Checked(values=values, faults=faults, clipped=clipped)

    def _is_short(self, values: pa.Array) -> bool:
        """Return whether no value is too long, at a glance: no text has more characters than bytes."""
        sizes = pc.binary_length(values) if pa.types.is_string(values.type) else lengths(values)
        return (pc.max(sizes).as_py() or 0) <= (self._column.max_length or 0)

    def _is_inside(self, values: pa.Array) -> bool:
        """Return whether no value is infinite or out of range, at a glance: by the least and the largest."""
        column = self._column
        if column.container or column.scalar not in (*INTEGERS, *FLOATS, *TEMPORALS):
            return not column.container
        found = pc.min_max(values)
        if not found["min"].is_valid:
            return True
        low, high = _plain(found["min"]), _plain(found["max"])
        if column.scalar in FLOATS and not (math.isfinite(low) and math.isfinite(high)):
            return False
        return (self._low is None or low >= _plain(self._low)) and (self._high is None or high <= _plain(self._high))

    def _range(self, values: pa.Array) -> list[tuple[int, Mask]]:
        limits = [(self._low, pc.less), (self._high, pc.greater)]
        return [
            (OUT_OF_RANGE, self._by_row(values, lambda inner, limit=limit, compare=compare: compare(inner, limit)))
            for limit, compare in limits
            if limit is not None
        ]

    def _by_row(self, values: pa.Array, test: Any) -> Mask:
        """Return the rows of which a value passes `test`; for lists and tensors: any of their values."""
        if not self._column.container:
            return _true(test(values), values)
        sizes = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
        inner = pc.list_flatten(values)
        # A fixed-size list gives the values of valid rows only, and its length counts for null rows too.
        sizes = np.where(values.is_null().to_numpy(zero_copy_only=False), 0, sizes)
        parents = np.repeat(np.arange(len(values)), sizes)
        return np.bincount(parents[_true(test(inner), inner)], minlength=len(values)) > 0


def _true(flags: pa.Array, values: pa.Array) -> Mask:
    """Return where a flag is set; a missing value sets none."""
    if values.null_count:
        flags = pc.and_(pc.fill_null(flags, False), values.is_valid())
    return flags.to_numpy(zero_copy_only=False)


def _plain(value: Any) -> int | float:
    """Return a number, a date or a time as a number."""
    return value.value if pa.types.is_temporal(value.type) else value.as_py()


def _limit(column: ColumnRule, side: Literal["minimum", "maximum"]) -> pa.Scalar | None:
    """Return a limit in its column's type: of integers the nearest inside, None where all of the type is inside."""
    limit: int | float | str | None = getattr(column, side)
    if limit is None:
        return None
    if column.scalar in TEMPORALS:
        found, failed = convert(pa.array([limit]), ColumnRule(name="limit", dtype=column.scalar))
        if failed.any():
            raise RequestError(f"The {side} {limit!r} of column {column.name!r} is no ISO 8601 {column.scalar}.")
        return found[0]
    kind = getattr(pa, column.scalar)()
    if column.scalar in FLOATS:
        return pa.scalar(np.dtype(column.scalar).type(limit), kind)
    info = np.iinfo(column.scalar)
    if side == "minimum":
        whole = math.ceil(float(limit)) if isinstance(limit, float) else int(limit)
        unreachable, idle = whole > info.max, whole < info.min
    else:
        whole = math.floor(float(limit)) if isinstance(limit, float) else int(limit)
        unreachable, idle = whole < info.min, whole > info.max
    if unreachable:
        raise RequestError(
            f"No {column.scalar} reaches the {side} {limit} of column {column.name!r}; change one of both."
        )
    return None if idle else pa.scalar(whole, kind)


def _value_set(column: ColumnRule) -> pa.Array | None:
    if column.values is None:
        return None
    given = list(column.values)
    texts = [value_text(value) for value in given]
    found, failed = convert(pa.array(texts), ColumnRule(name="value", dtype=column.scalar, finite=False))
    wrong = failed | found.is_null().to_numpy(zero_copy_only=False)
    if wrong.any():
        raise RequestError(
            f"values of column {column.name!r} holds {given[int(np.argmax(wrong))]!r}, which is no {column.scalar}."
        )
    return found


def _clipped(values: pa.Array, low: pa.Scalar | None, high: pa.Scalar | None) -> tuple[pa.Array, int]:
    """Return numbers moved to their limits, and how many moved."""
    out, count = values, 0
    for limit, compare in ((low, pc.less), (high, pc.greater)):
        if limit is None:
            continue
        outside = pc.fill_null(compare(out, limit), False)
        moved = int(pc.sum(outside).as_py() or 0)
        if moved:
            out = pc.if_else(outside, limit, out)
            count += moved
    return out, count


def value_text(value: object) -> str:
    """Return a declared value as the text that Arrow makes of it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
