"""The first pass: judge every row, and find what only the whole dataset shows: repeats, expectations, splits.

The driver holds counts, the rule of the split and the ids of repeated rows. Where rows or values must not repeat, their
digests lie sealed in the journal, and are compared one slice after another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.datasets.digests import Words
from lightmill.datasets.expectations import Judgement, class_codes
from lightmill.datasets.passes import Passes
from lightmill.datasets.progress import Meter
from lightmill.datasets.repeats import Repeats, mark
from lightmill.datasets.rows import Blocks, JudgedBlock, RowReader
from lightmill.datasets.sources.port import ROW_BITS
from lightmill.datasets.splitting import Codes, Keys, SplitStats, assigner, needs, split_keys
from lightmill.datasets.verdicts import (
    DUPLICATE,
    KEPT,
    NOT_UNIQUE,
    TYPE,
    UNREADABLE,
    Finding,
    Tally,
    check_expectations,
    check_nulls,
    refuse,
)
from lightmill.errors import RequestError
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.splitting import HashSplit, SplitRule

JUDGE = "judge"
SLICE_BYTES = 192 << 20
"""How much memory the digests of one slice may take."""

RowIds = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """The ids of rows that repeat others, rising, by verdict and column; small unless much repeats."""

    found: tuple[tuple[int, str, RowIds], ...] = ()

    def marked(self, verdict: npt.NDArray[np.int8], row_id: RowIds) -> npt.NDArray[np.int8]:
        """Return the verdicts of rows with those on repeats."""
        for reason, _, later in self.found:
            verdict = mark(verdict, row_id, later, reason)
        return verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the first pass found: counts, the rule of the split, and repeated rows. `kept` is a number of rows."""

    tally: Tally
    rule: SplitRule
    repeated: Repeated
    kept: int


class Keyed:
    """Tells the keys of rows that a split looks at, in whichever process it is."""

    def __init__(self, spec: DatasetSpec) -> None:
        self._spec = spec.split
        self._label = (*spec.label_columns(), None)[0]
        self._classes = spec.classes()
        self._columns = list(needs(spec.split))
        self._by_row = isinstance(spec.split, HashSplit) and spec.split.column is None

    def of(self, judgement: Judgement, keep: npt.NDArray[np.bool_]) -> Keys:
        """Return the keys of the rows to keep; see `split_keys` for errors."""
        rows = int(keep.sum())
        wanted = pa.array(keep)
        columns = judgement.table.select(self._columns).filter(wanted) if self._columns else pa.table({})
        label = self.labels(judgement.table.select([self._label]).filter(wanted)) if self._label else None
        digest = judgement.digest[keep] if self._by_row else None
        return split_keys(self._spec, columns, rows, label=label, digest=digest)

    def labels(self, table: pa.Table) -> RowIds | None:
        """Return the class codes of rows, int64 [rows]; None where there is no label."""
        return class_codes(table.column(self._label), self._classes) if self._label else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What one task says: counts, and either what its keys are like, or what is needed to tell after repeats."""

    tally: Tally
    stats: SplitStats | None
    pending: tuple[_Pending, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """The rows of a block that hold to the schema: ids, keys for the split, digests."""

    row_id: RowIds
    keys: Keys
    digest: Words | None
    unique: dict[str, Repeats] = field(default_factory=dict)


class _JudgeTask:
    """Judges the blocks of a task."""

    def __init__(self, reader: RowReader, spec: DatasetSpec) -> None:
        self._reader = reader
        self._spec = spec
        self._keyed = Keyed(spec)
        self._digests = spec.rules.duplicates != "keep"
        self._waits = self._digests or any(column.unique for column in spec.columns)

    def __call__(self, blocks: Iterator[pa.Table], number: int) -> _Told:
        tally = Tally()
        stats: SplitStats | None = None
        pending: list[_Pending] = []
        for block in blocks:
            judged = self._reader.judged(block)
            tally = tally + _tally(judged)
            found = judged.judgement
            keep = found.verdict == KEPT
            keys, row_id = self._keyed.of(found, keep), found.row_id[keep]
            if self._waits:
                digest = found.digest[keep] if self._digests else None
                pending.append(_Pending(row_id=row_id, keys=keys, digest=digest, unique=found.keys))
            else:
                one = SplitStats.of(self._spec.split, keys, row_id)
                stats = one if stats is None else stats + one
        return _Told(tally=tally, stats=stats, pending=tuple(pending))


def judge(
    passes: Passes,
    blocks: Blocks,
    reader: RowReader,
    spec: DatasetSpec,
    meter: Meter,
    rows_before: int = 0,
    rule: SplitRule | None = None,
) -> Judged:
    """Read everything once; return what is kept and where it goes.

    In an append, `rows_before` are those of the version before, and `rule` is its own, by which new rows go.

    Raises:
        RequestError: A rule says `fail` and a row breaks it, or an expectation is not met.
    """
    tally = Tally()
    stats: SplitStats | None = None
    held = 0
    for told in passes.run(JUDGE, _JudgeTask(reader, spec), meter):
        tally = tally + told.tally
        stats = _added(stats, told.stats)
        held += sum(len(one.row_id) for one in told.pending)
        meter.count(told.tally.rows)
    meter.finish()
    if not tally.rows:
        raise RequestError(f"{', '.join(sorted({part.path for part in blocks.parts})[:3])}: the source has no rows.")
    repeated = Repeated()
    if held:
        search = _Search(passes, spec, held)
        repeated, tally = search.repeated(tally)
        stats = search.stats(repeated)
    refuse(tally, spec.rules, blocks.locate)
    check_nulls(tally, reader.null_limits)
    kept = 0 if stats is None else stats.rows
    check_expectations(spec.expect, tally, rows_before + kept)
    return Judged(tally=tally, rule=rule or _rule(spec, stats), repeated=repeated, kept=kept)


def _rule(spec: DatasetSpec, stats: SplitStats | None) -> SplitRule:
    if stats is None or not stats.rows:
        raise RequestError(
            "The split 'train' gets no rows: none of the source is kept. Correct the source or the rules."
        )
    return stats.rule(spec.split)


def _added(one: SplitStats | None, other: SplitStats | None) -> SplitStats | None:
    return one + other if one is not None and other is not None else one if other is None else other


def _tally(judged: JudgedBlock) -> Tally:
    tally = judged.judgement.tally
    for bad in judged.bad:
        where = (TYPE if bad.kind == "type" else UNREADABLE, bad.column or "")
        first = Finding(rows=1, first=(bad.file << ROW_BITS) + bad.row, why=bad.reason)
        tally = tally + Tally(rows=1, faults={where: first})
    return tally


class _Search:
    """Finds repeats from what the journal holds, reading it once for each slice of the digests."""

    def __init__(self, passes: Passes, spec: DatasetSpec, rows: int) -> None:
        self._passes = passes
        self._spec = spec
        self._slices = max(1, -(-rows * 48 // SLICE_BYTES))
        self._unique = [name for column in spec.columns if column.unique for name in column.names()]

    def repeated(self, tally: Tally) -> tuple[Repeated, Tally]:
        """Return the rows that repeat others, and the counts with them; unique values come before whole rows."""
        found = Repeated()
        for name in self._unique:
            later = self._later(lambda one, name=name: one.unique[name])
            found, tally = self._with(found, tally, NOT_UNIQUE, name, later)
        if self._spec.rules.duplicates != "keep":
            later = self._later(lambda one: self._rows(one, found))
            found, tally = self._with(found, tally, DUPLICATE, "", later)
        return found, tally

    def stats(self, repeated: Repeated) -> SplitStats | None:
        """Return what the keys of the rows are like that stay."""
        stats: SplitStats | None = None
        for one in self._pending():
            keep = repeated.marked(np.zeros(len(one.row_id), dtype=np.int8), one.row_id) == KEPT
            stats = _added(stats, SplitStats.of(self._spec.split, one.keys[keep], one.row_id[keep]))
        return stats

    @staticmethod
    def _with(found: Repeated, tally: Tally, reason: int, name: str, later: RowIds) -> tuple[Repeated, Tally]:
        """Add rows, each under its first verdict only."""
        new = later[found.marked(np.zeros(len(later), dtype=np.int8), later) == KEPT]
        return Repeated(found=(*found.found, (reason, name, new))), tally.with_fault(reason, new, name)

    @staticmethod
    def _rows(one: _Pending, known: Repeated) -> Repeats:
        keep = known.marked(np.zeros(len(one.row_id), dtype=np.int8), one.row_id) == KEPT
        digest = np.empty((0, 2), dtype=np.uint64) if one.digest is None else one.digest[keep]
        return Repeats.of(digest, one.row_id[keep])

    def _later(self, of: Any) -> RowIds:
        found: list[RowIds] = []
        for index in range(self._slices):
            parts: list[Repeats] = []
            for one in self._pending():
                repeats = of(one)
                parts.append(Repeats.of(repeats.digest, repeats.row_id, slices=self._slices, index=index))
            found.append(Repeats.join(parts).later())
        return np.sort(np.concatenate(found))

    def _pending(self) -> Iterator[_Pending]:
        told: _Told
        for told in self._passes.again(JUDGE):
            yield from told.pending


class KeptRows:
    """The rows of a block that stay, masked, with their splits; in whichever process it is unpickled."""

    def __init__(self, reader: RowReader, spec: DatasetSpec, judged: Judged) -> None:
        self._reader = reader
        self._keyed = Keyed(spec)
        self._rule = judged.rule
        self._repeated = judged.repeated
        self._assign = assigner(judged.rule)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_assign"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._assign = assigner(self._rule)

    @property
    def reader(self) -> RowReader:
        """Return what judges and masks."""
        return self._reader

    def of(self, block: pa.Table) -> KeptBlock:
        """Return the rows of a block that stay, and what was found of the others."""
        judged = self._reader.judged(block)
        found = judged.judgement
        verdict = self._repeated.marked(found.verdict, found.row_id)
        keep = verdict == KEPT
        row_id = found.row_id[keep]
        split = self._assign(self._keyed.of(found, keep), row_id)
        table = found.table if keep.all() else found.table.filter(pa.array(keep))
        return KeptBlock(
            table=table, row_id=row_id, split=split, label=self._keyed.labels(table), verdict=verdict, judged=judged
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBlock:
    """The declared columns of the rows that stay, before masking; `verdict` int8 is of all rows that were read."""

    table: pa.Table
    row_id: RowIds
    split: Codes
    label: RowIds | None
    verdict: npt.NDArray[np.int8]
    judged: JudgedBlock
