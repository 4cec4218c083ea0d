"""What the declared schema says of each row, one block at a time. Pure; what blocks find adds up in any order.

A row has at most one verdict, that of its first fault in the order of `verdicts.PRECEDENCE` and, among columns, of
the declaration. Faults that only the whole dataset shows (repeated rows, values that are not unique) are found by
`repeats.Repeats` from the digests that a judgement carries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

from lightmill.datasets.columns import ROW_ID
from lightmill.datasets.conversion import arrow_type, convert
from lightmill.datasets.digests import Words, row_digests
from lightmill.datasets.repeats import Repeats
from lightmill.datasets.verdicts import (
    INFINITE,
    KEPT,
    MISSING,
    NOT_ALLOWED,
    OUT_OF_RANGE,
    PATTERN,
    PRECEDENCE,
    TOO_LONG,
    TYPE,
    Finding,
    Measure,
    Tally,
)
from lightmill.errors import RequestError
from lightmill.records.quality import FLOATS, INTEGERS, TEMPORALS, ColumnRule, ExpectSpec, RulesSpec

pc: Any = compute  # pyarrow makes these functions at import; type checkers do not see them

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One block, judged.

    Attributes:
        table: The declared columns in their declared types, in order; a value that did not convert is null.
        row_id: int64 [rows].
        verdict: int8 [rows], an index into `verdicts.REASONS`; 0 is a row to keep.
        column: int32 [rows], the index in `table` of the column that is to blame, -1 for rows to keep.
        digest: uint64 [rows, 2] of the columns that are not ignored, after clipping.
        keys: For each unique column: the digests of its values in the rows to keep; null repeats nothing.
        tally: What adds up.
    """

    table: pa.Table
    row_id: npt.NDArray[np.int64]
    verdict: npt.NDArray[np.int8]
    column: npt.NDArray[np.int32]
    digest: Words
    keys: dict[str, Repeats]
    tally: Tally

    @property
    def kept(self) -> pa.Table:
        """Return the rows that hold to the schema."""
        return self.table.filter(pa.array(self.verdict == KEPT))


class Judge:
    """Applies declared columns and rules to blocks. Pickles small."""

    def __init__(self, columns: Sequence[ColumnRule], rules: RulesSpec, expect: ExpectSpec | None = None) -> None:
        """Prepare the checks.

        Raises:
            RequestError: A column is declared twice, a pattern is outside RE2, or a value or limit is not of its
                column's dtype.
        """
        checks = [(column, _Check(column, rules)) for column in columns]
        self._columns = [(name, column) for column in columns for name in column.names()]
        self._checks = [check for column, check in checks for _ in column.names()]
        names = [name for name, _ in self._columns]
        if len(set(names)) < len(names):
            raise RequestError(f"Column {_twice(names)!r} is declared twice; remove one.")
        self._rules = rules
        self._expect = expect or ExpectSpec()
        for name in self._expect.columns:
            if name not in names:
                raise RequestError(f"expect.columns names {name!r}, which `columns` does not declare.")

    @property
    def schema(self) -> pa.Schema:
        """Return the schema of the tables that come out."""
        return pa.schema([(name, arrow_type(column)) for name, column in self._columns])

    @property
    def null_limits(self) -> dict[str, float]:
        """Return `max_nulls` by column name, where it is declared."""
        return {name: column.max_nulls for name, column in self._columns if column.max_nulls is not None}

    def judge(self, table: pa.Table, first_row: int = 0) -> Judgement:
        """Judge every row of a block.

        Args:
            table: The source's rows; row ids are in the column `row_id` int64, or count from `first_row`. Columns
                that are not declared are left out.
            first_row: The row id of the first row where there is no column of them.

        Raises:
            RequestError: A declared column that is not ignored is absent, a column is there twice, `row_id` holds no
                row ids, or a block holds more than 2 GiB of text in one column.
        """
        self._check_columns(table)
        rows = table.num_rows
        row_id = _row_ids(table, first_row)
        arrays: list[pa.Array] = []
        masks: list[tuple[int, int, Mask]] = []
        clipped: dict[str, int] = {}
        for index, (name, column) in enumerate(self._columns):
            found = self._checks[index].apply(_single(table, name, column, rows))
            arrays.append(found.values)
            masks += [(PRECEDENCE.index(code), index, mask) for code, mask in found.faults if mask.any()]
            if found.clipped:
                clipped[name] = found.clipped
        verdict, blame = _verdicts(masks, rows)
        out = pa.Table.from_arrays(arrays, schema=self.schema)
        keys = {
            name: _keys(array, row_id, verdict == KEPT)
            for (name, column), array in zip(self._columns, arrays, strict=True)
            if column.unique
        }
        counted = [array for (_, column), array in zip(self._columns, arrays, strict=True) if column.role != "ignore"]
        names = [name for name, _ in self._columns]
        tally = Tally(
            rows=rows,
            faults=_findings(verdict, blame, row_id, names),
            nulls={name: array.null_count for name, array in zip(names, arrays, strict=True) if array.null_count},
            clipped=clipped,
            measures=self._measure(out, verdict),
        )
        return Judgement(
            table=out,
            row_id=row_id,
            verdict=verdict,
            column=blame,
            digest=row_digests(counted, rows),
            keys=keys,
            tally=tally,
        )

    def _check_columns(self, table: pa.Table) -> None:
        there = table.column_names
        if len(set(there)) < len(there):
            raise RequestError(f"The source has the column {_twice(there)!r} twice; rename one.")
        known = set(there)
        missing = [name for name, column in self._columns if column.role != "ignore" and name not in known]
        if missing:
            raise RequestError(
                f"The source has no column {missing[0]!r}"
                + (f" (nor {len(missing) - 1} other declared ones)" if len(missing) > 1 else "")
                + f"; it has {', '.join(there[:8]) or 'none'}{', ...' if len(there) > 8 else ''}. "
                "Correct `columns` in the specification."
            )

    def _measure(self, table: pa.Table, verdict: npt.NDArray[np.int8]) -> dict[str, Measure]:
        if not self._expect.columns:
            return {}
        kept = table.select(list(self._expect.columns)).filter(pa.array(verdict == KEPT))
        out: dict[str, Measure] = {}
        for name, wanted in self._expect.columns.items():
            values = kept.column(name)
            numbers = values.drop_null().to_numpy() if _is_number(values.type) else np.empty(0)
            texts = values.cast(pa.string()) if wanted.shares else values
            out[name] = Measure(
                rows=len(values),
                values=len(numbers),
                total=float(numbers.sum()) if wanted.mean else 0.0,
                matches=tuple(pc.sum(pc.equal(texts, value)).as_py() or 0 for value in wanted.shares),
            )
        return out


def class_codes(values: pa.Array | pa.ChunkedArray, classes: Sequence[object]) -> npt.NDArray[np.int64]:
    """Return int64 [rows]: the index of each value among the classes, compared as text; -1 where it is none of them."""
    texts = values if pa.types.is_string(values.type) else values.cast(pa.string())
    known = pa.array([_class_text(value) for value in classes], type=pa.string())
    found = pc.fill_null(pc.index_in(texts, value_set=known), -1)
    return (
        found.to_numpy(zero_copy_only=False).astype(np.int64)
        if isinstance(found, pa.Array)
        else (found.to_numpy().astype(np.int64))
    )


def _class_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _twice(names: Sequence[str]) -> str:
    return next(name for index, name in enumerate(names) if name in names[:index])


def _row_ids(table: pa.Table, first_row: int) -> npt.NDArray[np.int64]:
    if ROW_ID not in table.column_names:
        return np.arange(first_row, first_row + table.num_rows, dtype=np.int64)
    found = table.column(ROW_ID)
    if found.type != pa.int64() or found.null_count:
        raise RequestError(f"The column {ROW_ID!r} numbers the rows, as int64 without nulls; rename it in the source.")
    return found.to_numpy()


def _single(table: pa.Table, name: str, column: ColumnRule, rows: int) -> pa.Array:
    """Return a column as one array; an ignored column that is absent is all null."""
    if name not in table.column_names:
        return pa.nulls(rows, arrow_type(column))
    found = table.column(name).combine_chunks()
    if isinstance(found, pa.ChunkedArray):
        if found.num_chunks != 1:
            raise RequestError(f"A block holds more than 2 GiB in column {name!r}; read the source in smaller blocks.")
        found = found.chunk(0)
    return found


def _verdicts(masks: list[tuple[int, int, Mask]], rows: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    verdict = np.full(rows, KEPT, dtype=np.int8)
    blame = np.full(rows, -1, dtype=np.int32)
    for rank, index, mask in sorted(masks, key=lambda entry: entry[:2]):
        fresh = mask & (verdict == KEPT)
        verdict[fresh] = PRECEDENCE[rank]
        blame[fresh] = index
    return verdict, blame


def _keys(values: pa.Array, row_id: npt.NDArray[np.int64], kept: Mask) -> Repeats:
    use = kept & values.is_valid().to_numpy(zero_copy_only=False)
    return Repeats.of(row_digests([values.filter(pa.array(use))], int(use.sum())), row_id[use])


def _findings(
    verdict: npt.NDArray[np.int8], blame: npt.NDArray[np.int32], row_id: npt.NDArray[np.int64], names: list[str]
) -> dict[tuple[int, str], Finding]:
    bad = np.flatnonzero(verdict != KEPT)
    pairs = verdict[bad].astype(np.int64) * (len(names) + 1) + blame[bad]
    kinds, place, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    first = np.full(len(kinds), np.iinfo(np.int64).max)
    np.minimum.at(first, place, row_id[bad])
    return {
        (int(kind) // (len(names) + 1), names[int(kind) % (len(names) + 1)]): Finding(rows=int(count), first=int(row))
        for kind, count, row in zip(kinds, counts, first, strict=True)
    }


# -- one column ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    values: pa.Array
    faults: list[tuple[int, Mask]]
    clipped: int = 0


class _Check:
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

    def apply(self, source: pa.Array) -> _Found:
        values, failed = convert(source, self._column)
        faults: list[tuple[int, Mask]] = [(TYPE, failed)]
        if values.null_count and self._column.required:
            faults.append((MISSING, values.is_null().to_numpy(zero_copy_only=False) & ~failed))
        if self._values is not None:
            faults.append(
                (NOT_ALLOWED, _true(pc.invert(pc.is_in(values, value_set=self._values, skip_nulls=False)), values))
            )
        if self._pattern is not None:
            faults.append(
                (PATTERN, self._by_row(values, lambda inner: pc.invert(pc.match_substring_regex(inner, self._pattern))))
            )
        if self._column.max_length is not None:
            faults.append((TOO_LONG, _true(pc.greater(_lengths(values), self._column.max_length), values)))
        clipped = 0
        if self._clip and (self._low is not None or self._high is not None):
            values, clipped = _clipped(values, self._low, self._high)
        if self._column.finite and self._column.scalar in FLOATS:
            faults.append((INFINITE, self._by_row(values, pc.is_inf)))
        if not self._clip:
            faults += self._range(values)
        return _Found(values=values, faults=faults, clipped=clipped)

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
        lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
        inner = pc.list_flatten(values)
        # A fixed-size list gives the values of valid rows only, and its length counts for null rows too.
        lengths = np.where(values.is_null().to_numpy(zero_copy_only=False), 0, lengths)
        parents = np.repeat(np.arange(len(values)), lengths)
        return np.bincount(parents[_true(test(inner), inner)], minlength=len(values)) > 0


def _true(flags: pa.Array, values: pa.Array) -> Mask:
    """Return where a flag is set; a missing value sets none."""
    if values.null_count:
        flags = pc.and_(pc.fill_null(flags, False), values.is_valid())
    return flags.to_numpy(zero_copy_only=False)


def _lengths(values: pa.Array) -> pa.Array:
    if pa.types.is_string(values.type):
        return pc.utf8_length(values)
    return pc.binary_length(values) if pa.types.is_binary(values.type) else pc.list_value_length(values)


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
    texts = [_class_text(value) for value in given]
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
