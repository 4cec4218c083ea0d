"""What the declared schema says of each row, one block at a time. Pure; what blocks find adds up in any order.

A row has at most one verdict, that of its first fault in the order of `verdicts.PRECEDENCE` and, among columns, of
the declaration. Faults that only the whole dataset shows (repeated rows, values that are not unique) are found by
`repeats.Repeats` from the digests that a judgement carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

from lightmill.datasets.arrays import single
from lightmill.datasets.column_checks import ColumnCheck, value_text
from lightmill.datasets.columns import ROW_ID
from lightmill.datasets.conversion import arrow_type
from lightmill.datasets.digests import Words, row_digests
from lightmill.datasets.repeats import Repeats
from lightmill.datasets.verdicts import (
    KEPT,
    PRECEDENCE,
    Finding,
    Measure,
    Tally,
)
from lightmill.errors import RequestError
from lightmill.records.quality import FLOATS, INTEGERS, ColumnRule, ExpectSpec, RulesSpec

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
        digested: The names of the columns that are not ignored, of which `digest` is.
        keys: For each unique column: the digests of its values in the rows to keep; null repeats nothing.
        tally: What adds up.
    """

    table: pa.Table
    row_id: npt.NDArray[np.int64]
    verdict: npt.NDArray[np.int8]
    column: npt.NDArray[np.int32]
    digested: tuple[str, ...]
    keys: dict[str, Repeats]
    tally: Tally

    @property
    def digest(self) -> Words:
        """Return uint64 [rows, 2], digests of the rows after clipping; computed each time, and dear: ask once."""
        return row_digests([single(self.table.column(name), name) for name in self.digested], len(self.row_id))

    @property
    def kept(self) -> pa.Table:
        """Return the rows that hold to the schema."""
        return self.table.filter(pa.array(self.verdict == KEPT))


class Judge:
    """Applies declared columns and rules to blocks. Pickles small."""

    def __init__(self, columns: Sequence[ColumnRule], rules: RulesSpec, expect: ExpectSpec | None = None) -> None:
        """Prepare the checks.

        Raises:
            RequestError: A column is declared twice, a pattern is outside RE2, a value or limit is not of its column's
                dtype, or an expectation does not fit its column.
        """
        checks = [(column, ColumnCheck(column, rules)) for column in columns]
        self._columns = [(name, column) for column in columns for name in column.names()]
        self._checks = [check for column, check in checks for _ in column.names()]
        names = [name for name, _ in self._columns]
        if len(set(names)) < len(names):
            raise RequestError(f"Column {_twice(names)!r} is declared twice; remove one.")
        self._rules = rules
        self._expect = expect or ExpectSpec()
        declared = dict(self._columns)
        for name, wanted in self._expect.columns.items():
            if name not in declared:
                raise RequestError(f"expect.columns names {name!r}, which `columns` does not declare.")
            column = declared[name]
            if wanted.shares and (column.container or column.scalar == "binary"):
                raise RequestError(
                    f"expect.columns.{name}.shares needs single values of text or number, not {column.dtype}."
                )
            if wanted.mean and (column.container or column.scalar not in (*INTEGERS, *FLOATS)):
                raise RequestError(f"expect.columns.{name}.mean needs numbers, and the column is {column.dtype}.")

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
            found = self._checks[index].apply(_column(table, name, column))
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
            digested=tuple(name for name, column in self._columns if column.role != "ignore"),
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
    known = pa.array([value_text(value) for value in classes], type=pa.string())
    found = pc.fill_null(pc.index_in(texts, value_set=known), -1)
    return (
        found.to_numpy(zero_copy_only=False).astype(np.int64)
        if isinstance(found, pa.Array)
        else (found.to_numpy().astype(np.int64))
    )


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


def _column(table: pa.Table, name: str, column: ColumnRule) -> pa.Array:
    """Return a column as one array; an ignored column that is absent is all null."""
    if name not in table.column_names:
        return pa.nulls(table.num_rows, arrow_type(column))
    return single(table.column(name), name)


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
