"""Which row goes to which split, in memory that does not grow with the rows.

Every row has a key (its class, time, group: what the split looks at) and a draw, a number that its row id and the seed
give. Blocks say what their keys and draws are like (`SplitStats`, which add up), all of them together give a
`SplitRule`, and the rule tells the split of any row from its key and its draw alone, in every pass and for rows that
come later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

from lightmill.datasets.digests import Words, mix64, row_digests
from lightmill.datasets.grouping import pack_groups
from lightmill.datasets.ordered import Ordered
from lightmill.datasets.ranking import DrawStats, draws, reached
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
    SplitRule,
    StratifiedSplit,
)

pc: Any = compute  # pyarrow makes these functions at import; type checkers do not see them

AnySplit = RandomSplit | StratifiedSplit | SequentialSplit | GroupedSplit | HashSplit | PredicateSplit
Codes = npt.NDArray[np.int8]
Keys = npt.NDArray[Any]
TRAIN, VALIDATION, TEST = range(3)
CLASSES_MAX = 1 << 16
PACKED_MAX = 1 << 12
_OTHERS, _TESTED, _VALIDATED = range(3)


def needs(spec: AnySplit) -> tuple[str, ...]:
    """Return the names of the columns that a split reads, so that a pass over the data carries no more."""
    if isinstance(spec, PredicateSplit):
        conditions = [part for part in (spec.test, spec.validation) if isinstance(part, Comparison)]
        return tuple(dict.fromkeys(condition.column for condition in conditions))
    column = None if isinstance(spec, RandomSplit) else spec.column
    return () if column is None else (column,)


def split_keys(
    spec: AnySplit,
    columns: pa.Table,
    rows: int,
    *,
    label: npt.NDArray[np.int64] | None = None,
    digest: Words | None = None,
) -> Keys:
    """Return what the split looks at, [rows]: uint64, or the times themselves.

    Args:
        spec: What the specification says.
        columns: The columns that the split names, see `needs`.
        rows: The number of rows.
        label: The label's class codes, for a stratified split without a column.
        digest: The rows' digests, for a split by hash without a column.

    Raises:
        RequestError: A column that the split names is absent, or what a column holds does not serve.
    """
    match spec:
        case RandomSplit():
            return np.zeros(rows, dtype=np.uint64)
        case StratifiedSplit(column=None):
            return _given(label, "a label").astype(np.uint64)
        case StratifiedSplit():
            return _digests(_column(columns, str(spec.column)))[:, 0]
        case SequentialSplit():
            return _times(_column(columns, spec.column), spec.column)
        case GroupedSplit():
            return _hashed(_digests(_column(columns, spec.column)), spec.seed)
        case HashSplit():
            found = (
                _given(digest, "digests of rows") if spec.column is None else _digests(_column(columns, spec.column))
            )
            return _hashed(found, spec.seed)
        case PredicateSplit():
            return _conditions(columns, rows, spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitStats:
    """What blocks say of the keys and draws of their rows; they add up."""

    rows: int
    lots: DrawStats | None = None
    order: Ordered | None = None

    @classmethod
    def of(cls, spec: AnySplit, keys: Keys, row_id: npt.NDArray[np.int64]) -> SplitStats:
        """Return what rows say by their keys and ids, [rows] each."""
        match spec:
            case SequentialSplit() | GroupedSplit():
                return cls(rows=len(keys), order=Ordered.of(keys))
            case HashSplit():
                return cls(rows=len(keys))
            case PredicateSplit():
                others = keys == _OTHERS
                lots = DrawStats.of(keys[others], draws(row_id[others], spec.seed), _shares(spec))
                return cls(rows=len(keys), lots=lots)
            case RandomSplit() | StratifiedSplit():
                return cls(rows=len(keys), lots=DrawStats.of(keys, draws(row_id, spec.seed), _shares(spec)))

    def __add__(self, other: SplitStats) -> SplitStats:
        both = SplitStats(
            rows=self.rows + other.rows,
            lots=None if self.lots is None or other.lots is None else self.lots + other.lots,
            order=None if self.order is None or other.order is None else self.order + other.order,
        )
        if both.lots is not None and len(both.lots.classes) > CLASSES_MAX:
            raise RequestError(
                f"split.column has more than {CLASSES_MAX} different values; stratify by a column of few, or use "
                "`by: random`."
            )
        return both

    def rule(self, spec: AnySplit) -> SplitRule:
        """Return what tells the split of each row.

        Rows of `random` and `stratified` splits, and those that no condition of a `predicate` takes, are divided
        exact to one row, within each class. A `sequential` share misses its size by the rows of the time at its
        end. A `grouped` one misses by at most twice the largest group; of more than 4096 groups, by one, and with
        more than 2^20 groups by a millionth of the rows besides. `hash` is a fair draw: of n rows, a share s
        misses by about sqrt(s (1 - s) / n).
        """
        if self.lots is not None:
            keys = tuple(sorted(self.lots.classes))
            return SplitRule(spec=spec, keys=keys, cuts=tuple(_class_cuts(spec, self.lots, key) for key in keys))
        if self.order is None or not self.rows:
            return SplitRule(spec=spec)
        if isinstance(spec, SequentialSplit):
            return SplitRule(spec=spec, cuts=(tuple(self.order.after(size) for size in _sizes(self.rows, spec)),))
        if isinstance(spec, GroupedSplit):
            return _group_rule(spec, self.order)
        raise TypeError(f"no rule for {spec}")


def assigner(rule: SplitRule) -> Callable[[Keys, npt.NDArray[np.int64]], Codes]:
    """Return what tells splits: (keys [rows], row ids int64 [rows]) to int8 [rows], indices into SPLITS."""
    spec = rule.spec
    match spec:
        case HashSplit():
            limits = [min(int(limit * 2.0**64), 2**64 - 1) for limit in _shares(spec)]
            return lambda keys, _: _counted([keys >= np.uint64(limit) for limit in limits], len(keys))
        case SequentialSplit():
            cuts = [cut for cut in (rule.cuts or ((),))[0] if cut is not None]
            return lambda keys, _: _counted([keys >= cut for cut in cuts], len(keys))
        case GroupedSplit():
            return _GroupAssigner(rule)
        case _:
            return _LotAssigner(rule)


class _LotAssigner:
    """Splits by draws below the cuts of a row's class; a class that was not seen goes by the shares."""

    def __init__(self, rule: SplitRule) -> None:
        spec = rule.spec
        if not isinstance(spec, RandomSplit | StratifiedSplit | PredicateSplit):
            raise TypeError(f"{spec} draws no lots")
        self._seed = spec.seed
        self._conditions = isinstance(spec, PredicateSplit)
        self._keys = np.array(rule.keys, dtype=np.uint64)
        fair = tuple(int(share * 2.0**64) for share in _shares(spec))
        found: list[tuple[Any, ...]] = [*rule.cuts, fair]
        self._cuts = [[row[place] for row in found] for place in range(len(fair))]

    def __call__(self, keys: Keys, row_id: npt.NDArray[np.int64]) -> Codes:
        draw = draws(row_id, self._seed)
        place = np.minimum(np.searchsorted(self._keys, keys), max(len(self._keys) - 1, 0))
        unseen = self._keys[place] != keys if len(self._keys) else np.ones(len(keys), dtype=np.bool_)
        place = np.where(unseen, len(self._keys), place)
        out = _counted([reached(draw, cut, place) for cut in self._cuts], len(keys))
        if self._conditions:
            out = np.where(keys == _TESTED, np.int8(TEST), np.where(keys == _VALIDATED, np.int8(VALIDATION), out))
        return out


class _GroupAssigner:
    """Splits by a group's own split where it was seen and there are few, else by the draw of the group."""

    def __init__(self, rule: SplitRule) -> None:
        self._keys = np.array(rule.keys, dtype=np.uint64)
        self._splits = np.array(rule.splits, dtype=np.int8)
        self._cuts = [None if cut is None else int(cut) for cut in (rule.cuts or ((),))[0]]

    def __call__(self, keys: Keys, row_id: npt.NDArray[np.int64]) -> Codes:
        one = np.zeros(len(keys), dtype=np.int64)
        out = _counted([reached(keys, [cut], one) for cut in self._cuts], len(keys))
        if len(self._keys):
            place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            out = np.where(self._keys[place] == keys, self._splits[place], out)
        return out


def _class_cuts(spec: AnySplit, lots: DrawStats, key: int) -> tuple[int | None, ...]:
    count = lots.classes[key].count
    if isinstance(spec, PredicateSplit):
        share = spec.validation if isinstance(spec.validation, float) else 0.0
        return (lots.cut(key, 0, count - round(count * share)),)
    if not isinstance(spec, Shares):
        raise TypeError(f"{spec} has no shares")
    return tuple(lots.cut(key, place, rows) for place, rows in enumerate(_sizes(count, spec)))


def _group_rule(spec: GroupedSplit, order: Ordered) -> SplitRule:
    """Return the rule for groups: few are packed so that no share misses much, of many the draws are cut."""
    ends = np.cumsum(order.counts)
    places = [int(np.argmin(np.abs(ends - wished))) for wished in _sizes(order.rows, spec)]
    last = len(order.values) - 1
    cuts = tuple(None if place >= last else int(order.values[place + 1]) for place in places)
    if len(order.values) > PACKED_MAX:
        return SplitRule(spec=spec, cuts=(cuts,))
    shares = np.array([spec.train, spec.validation, spec.test])
    generator = np.random.Generator(np.random.PCG64([spec.seed, 1]))
    splits = pack_groups(order.counts, shares, generator)
    keys = tuple(int(key) for key in order.values)
    return SplitRule(spec=spec, keys=keys, cuts=(cuts,), splits=tuple(int(code) for code in splits))


def split_rows(
    spec: AnySplit,
    rows: int,
    columns: pa.Table,
    *,
    label: npt.NDArray[np.int64] | None = None,
    digest: Words | None = None,
    row_id: npt.NDArray[np.int64] | None = None,
) -> Codes:
    """Return int8 [rows] by any kind of split, of rows that are all here; see `split_keys`."""
    ids = np.arange(rows, dtype=np.int64) if row_id is None else row_id
    keys = split_keys(spec, columns, rows, label=label, digest=digest)
    return assigner(SplitStats.of(spec, keys, ids).rule(spec))(keys, ids)


def refuse_empty(counts: Sequence[int], names: Sequence[str] = SPLITS) -> None:
    """Raise if a split has no rows.

    Raises:
        RequestError: A split is empty.
    """
    for name, count in zip(names, counts, strict=True):
        if not count:
            raise RequestError(f"The split {name!r} gets no rows of {sum(counts)} kept; change `split`.")


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


def _times(values: pa.ChunkedArray, name: str) -> Keys:
    """Return a column of times, dates or numbers as comparable numbers, int64 or float64 [rows]."""
    kind = values.type
    if pa.types.is_temporal(kind):
        values = values.cast(pa.int32() if pa.types.is_date32(kind) else pa.int64())
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise RequestError(f"A column of type {kind} has no order in time; declare it as timestamp, date or number.")
    found = values.to_numpy()
    if found.dtype.kind == "f" and np.isnan(found).any():
        raise RequestError(f"split.column {name!r} lacks a time in some row; drop those rows by rules.missing.")
    return found if found.dtype.kind == "f" else found.astype(np.int64)


def _shares(spec: AnySplit) -> tuple[float, ...]:
    """Return the shares below each cut."""
    if isinstance(spec, PredicateSplit):
        return (1.0 - spec.validation if isinstance(spec.validation, float) else 1.0,)
    return (spec.train, spec.train + spec.validation)


def _sizes(rows: int, spec: Shares) -> tuple[int, int]:
    """Return where the validation and the test split begin."""
    first = round(rows * spec.train)
    return first, first + round(rows * spec.validation)


def _counted(reached: Sequence[npt.NDArray[np.bool_]], rows: int) -> Codes:
    """Return int8 [rows]: how many cuts a row has reached."""
    out = np.zeros(rows, dtype=np.int8)
    for one in reached:
        out += one
    return out


def _conditions(columns: pa.Table, rows: int, spec: PredicateSplit) -> Keys:
    out = np.full(rows, _OTHERS, dtype=np.uint64)
    if isinstance(spec.validation, Comparison):
        out[fulfils(columns, spec.validation)] = _VALIDATED
    out[fulfils(columns, spec.test)] = _TESTED
    return out


def _hashed(digest: Words, seed: int) -> Words:
    """Return uint64 [rows], uniform, from digests uint64 [rows, 2] and the seed alone. Frozen: splits depend on it."""
    salt = mix64(np.array([seed], dtype=np.uint64))
    return mix64(digest[:, 0] ^ mix64(digest[:, 1] + salt))


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
