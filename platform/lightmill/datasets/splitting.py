"""Which row goes to which split. Pure: arrays, shares and a seed in, one number a row out.

Rows are in source order (by row id). Memory: `random`, `stratified` and `grouped` take 8 to 32 bytes a row while they
run, `sequential` and `hash` 8 to 16. `by: stratified` and `by: random` assign as `splits.assign_splits` has done from
the first version on, so that old versions can be made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

from lightmill.datasets.digests import Words, mix64, row_digests
from lightmill.datasets.grouping import pack_groups
from lightmill.errors import RequestError
from lightmill.records.splitting import (
    SPLITS,
    Comparison,
    GroupedSplit,
    HashSplit,
    PredicateSplit,
    RandomSplit,
    SequentialSplit,
    Shares,
    StratifiedSplit,
)

pc: Any = compute  # pyarrow makes these functions at import; type checkers do not see them

Codes = npt.NDArray[np.int8]
TRAIN, VALIDATION, TEST = range(3)


def split_random(rows: int, spec: RandomSplit) -> Codes:
    """Return int8 [rows], an index into SPLITS; every share is exact to one row."""
    return _cut(rows, spec, _generator(spec.seed, 1))


def split_stratified(classes: npt.NDArray[np.int64], spec: StratifiedSplit) -> Codes:
    """Return int8 [rows] from class codes int64 [rows] (-1 or more): every class keeps the shares to one row.

    A class's rows are divided the same whatever other classes there are.
    """
    order = np.argsort(classes, kind="stable")
    found, starts = np.unique(classes[order], return_index=True)
    ends = np.append(starts, len(classes))[1:]
    out = np.empty(len(classes), dtype=np.int8)
    for code, first, end in zip(found.tolist(), starts.tolist(), ends.tolist(), strict=True):
        out[order[first:end]] = _cut(end - first, spec, _generator(spec.seed, code + 1))
    return out


def split_sequential(times: npt.NDArray[np.int64] | npt.NDArray[np.float64], spec: SequentialSplit) -> Codes:
    """Return int8 [rows] from times [rows] in any order: no row of a later split is earlier than one of a former.

    Raises:
        RequestError: A time is NaN.
    """
    rows = len(times)
    if not rows:
        return np.empty(0, dtype=np.int8)
    if times.dtype.kind == "f" and np.isnan(times).any():
        raise RequestError(f"split.column {spec.column!r} lacks a time in some row; drop those rows by rules.missing.")
    cuts = [cut for cut in _sizes(rows, spec) if cut < rows]
    out = np.zeros(rows, dtype=np.int8)
    ordered = np.partition(times, sorted(set(cuts))) if cuts else times
    for cut in cuts:
        out += times >= ordered[cut]
    return out


def split_grouped(groups: npt.NDArray[np.int64], spec: GroupedSplit) -> Codes:
    """Return int8 [rows] from group codes int64 [rows]: all rows of a group are in one split.

    A split misses its share by at most twice the largest group. With fewer groups than splits one stays empty; see
    `refuse_empty`.
    """
    found, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    shares = np.array([spec.train, spec.validation, spec.test])
    bins = pack_groups(sizes.astype(np.int64), shares, _generator(spec.seed, 1)) if len(found) else np.empty(0)
    return bins.astype(np.int8)[place]


def split_hash(digest: Words, spec: HashSplit) -> Codes:
    """Return int8 [rows] from digests uint64 [rows, 2]: each row's split depends on its digest and the seed alone.

    Shares are those of a fair draw: of n rows, a share s misses by about sqrt(s (1 - s) / n).
    """
    salt = mix64(np.array([spec.seed], dtype=np.uint64))
    drawn = mix64(digest[:, 0] ^ mix64(digest[:, 1] + salt))
    limits = [spec.train, spec.train + spec.validation]
    out = np.zeros(len(drawn), dtype=np.int8)
    for limit in limits:
        out += drawn >= np.uint64(min(int(limit * 2.0**64), 2**64 - 1))
    return out


def split_predicate(table: pa.Table, spec: PredicateSplit) -> Codes:
    """Return int8 [rows] from a table that has the columns of the conditions.

    Raises:
        RequestError: A column is absent, or a value does not compare with it.
    """
    test = fulfils(table, spec.test)
    out = np.where(test, np.int8(TEST), np.int8(TRAIN))
    others = np.flatnonzero(~test)
    if isinstance(spec.validation, Comparison):
        out[~test & fulfils(table, spec.validation)] = VALIDATION
        return out
    chosen = _generator(spec.seed, 1).permutation(others)[: round(len(others) * spec.validation)]
    out[chosen] = VALIDATION
    return out


def fulfils(table: pa.Table, condition: Comparison) -> npt.NDArray[np.bool_]:
    """Return bool [rows]: which rows fulfil a condition; a missing value and NaN fulfil none.

    Raises:
        RequestError: The column is absent, or the value does not compare with it.
    """
    if condition.column not in table.column_names:
        raise RequestError(
            f"The split's condition names column {condition.column!r}; there are {', '.join(table.column_names[:8])}."
        )
    values = table.column(condition.column)
    try:
        found = _compared(values, condition)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, OverflowError) as exc:
        raise RequestError(
            f"Column {condition.column!r} ({values.type}) does not compare with {condition.value!r}; change the value."
        ) from exc
    there = pc.invert(pc.is_null(values, nan_is_null=pa.types.is_floating(values.type)))
    return pc.and_(pc.fill_null(found, False), there).to_numpy()


def _compared(values: pa.ChunkedArray, condition: Comparison) -> pa.ChunkedArray:
    temporal = pa.types.is_temporal(values.type)
    if isinstance(condition.value, tuple):
        wanted = pa.array(condition.value)
        found = pc.is_in(values, value_set=wanted.cast(values.type))
        return pc.invert(found) if condition.op == "not in" else found
    if isinstance(condition.value, str) != (temporal or pa.types.is_string(values.type)):
        raise pa.ArrowInvalid("text compares with text and times only")
    wanted = pa.scalar(condition.value)
    if temporal:
        wanted = _time_scalar(condition.value, values.type)
    operations = {"==": "equal", "!=": "not_equal", "<": "less", "<=": "less_equal", ">": "greater"}
    return getattr(pc, operations.get(condition.op, "greater_equal"))(values, wanted)


def _time_scalar(text: object, kind: pa.DataType) -> pa.Scalar:
    """Return ISO 8601 text as a date or as a time in UTC."""
    naive = pa.scalar(str(text)).cast(pa.date32() if pa.types.is_date(kind) else pa.timestamp("us"))
    return pc.assume_timezone(naive, "UTC") if getattr(kind, "tz", None) else naive


def group_codes(values: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return int64 [rows]: equal numbers for equal values; null is one more value."""
    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if isinstance(whole, pa.ChunkedArray):  # more than 2 GiB of text
        return digest_codes(_digests(whole))
    encoded = whole.dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def digest_codes(digest: Words) -> npt.NDArray[np.int64]:
    """Return int64 [rows]: equal numbers for equal digests uint64 [rows, 2], in the order of the digests."""
    order = np.lexsort((digest[:, 1], digest[:, 0]))
    ordered = digest[order]
    fresh = np.zeros(len(order), dtype=np.int64)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    out = np.empty(len(order), dtype=np.int64)
    out[order] = np.cumsum(fresh)
    return out


def time_values(values: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64] | npt.NDArray[np.float64]:
    """Return a column of times, dates or numbers as comparable numbers [rows]; a missing one is NaN."""
    kind = values.type
    if pa.types.is_temporal(kind):
        values = values.cast(pa.int32() if pa.types.is_date32(kind) else pa.int64())
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise RequestError(f"A column of type {kind} has no order in time; declare it as timestamp, date or number.")
    found = values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy()
    return found if found.dtype.kind == "f" else found.astype(np.int64)


def split_rows(
    spec: RandomSplit | StratifiedSplit | SequentialSplit | GroupedSplit | HashSplit | PredicateSplit,
    rows: int,
    columns: pa.Table,
    *,
    label: npt.NDArray[np.int64] | None = None,
    digest: Words | None = None,
) -> Codes:
    """Return int8 [rows] by any kind of split; the one function that knows them all.

    Args:
        spec: What the specification says.
        rows: The number of rows, in source order.
        columns: The columns that the split names, see `needs`.
        label: The label's class codes, for a stratified split without a column.
        digest: The rows' digests, for a split by hash without a column.

    Raises:
        RequestError: A column that the split names is absent, or what a column holds does not serve.
    """
    match spec:
        case RandomSplit():
            return split_random(rows, spec)
        case StratifiedSplit():
            if spec.column is None:
                return split_stratified(_given(label, "a label"), spec)
            return split_stratified(group_codes(_column(columns, spec.column)), spec)
        case SequentialSplit():
            return split_sequential(time_values(_column(columns, spec.column)), spec)
        case GroupedSplit():
            return split_grouped(group_codes(_column(columns, spec.column)), spec)
        case HashSplit():
            if spec.column is None:
                return split_hash(_given(digest, "digests of rows"), spec)
            return split_hash(_digests(_column(columns, spec.column)), spec)
        case PredicateSplit():
            return split_predicate(columns, spec)


def needs(
    spec: RandomSplit | StratifiedSplit | SequentialSplit | GroupedSplit | HashSplit | PredicateSplit,
) -> tuple[str, ...]:
    """Return the names of the columns that a split reads, so that a pass over the data carries no more."""
    if isinstance(spec, PredicateSplit):
        conditions = [part for part in (spec.test, spec.validation) if isinstance(part, Comparison)]
        return tuple(dict.fromkeys(condition.column for condition in conditions))
    column = None if isinstance(spec, RandomSplit) else spec.column
    return () if column is None else (column,)


def refuse_empty(split: Codes, names: Sequence[str] = SPLITS) -> None:
    """Raise if a split has no rows.

    Raises:
        RequestError: A split is empty.
    """
    counts = np.bincount(split[split >= 0], minlength=len(names))
    for name, count in zip(names, counts.tolist(), strict=True):
        if not count:
            raise RequestError(f"The split {name!r} gets no rows of {int((split >= 0).sum())} kept; change `split`.")


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, stream]))


def _sizes(rows: int, spec: Shares) -> tuple[int, int]:
    """Return where the validation and the test split begin."""
    first = round(rows * spec.train)
    return first, first + round(rows * spec.validation)


def _cut(rows: int, spec: Shares, generator: np.random.Generator) -> Codes:
    first, second = _sizes(rows, spec)
    shuffled = generator.permutation(rows)
    out = np.full(rows, TEST, dtype=np.int8)
    out[shuffled[:first]] = TRAIN
    out[shuffled[first:second]] = VALIDATION
    return out


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise RequestError(
            f"split.column names {name!r}, but the rows have {', '.join(table.column_names[:8]) or 'none'}."
        )
    return table.column(name)


def _digests(values: pa.ChunkedArray) -> Words:
    parts = [row_digests([chunk], len(chunk)) for chunk in values.chunks]
    return np.concatenate([np.empty((0, 2), dtype=np.uint64), *parts])


def _given(value: npt.NDArray[Any] | None, what: str) -> npt.NDArray[Any]:
    if value is None:
        raise RequestError(f"This split needs {what}; name a column in split.column.")
    return value
