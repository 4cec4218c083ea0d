"""The first pass: judge every row, find what only the whole dataset shows, and divide the rows into splits.

The driver holds 17 bytes a row, 33 where rows or values must not repeat, and the columns that a split names.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.datasets.digests import Words
from lightmill.datasets.expectations import class_codes
from lightmill.datasets.repeats import Repeats, mark
from lightmill.datasets.rows import Blocks, RowReader
from lightmill.datasets.sources.port import ROW_BITS
from lightmill.datasets.splitting import Codes, needs, refuse_empty, split_rows
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
    total,
)
from lightmill.errors import RequestError
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.splitting import HashSplit

Count = Callable[[int], None]
FOUND = "found"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the first pass found, by rising row id; `split` int8 is -1 for a row that is not kept."""

    row_id: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    verdict: npt.NDArray[np.int8]
    split: npt.NDArray[np.int8]
    tally: Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the driver needs to know of one block."""

    row_id: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    verdict: npt.NDArray[np.int8]
    digest: Words | None
    columns: pa.Table
    keys: dict[str, Repeats]
    tally: Tally


class _Judge:
    """Turns a block into one row: a `_Found`, pickled for Ray."""

    def __init__(self, reader: RowReader, spec: DatasetSpec) -> None:
        self._reader = reader
        self._label = (*spec.label_columns(), None)[0]
        self._classes = spec.classes()
        self._columns = list(needs(spec.split))
        by_row = isinstance(spec.split, HashSplit) and spec.split.column is None
        self._digests = spec.rules.duplicates != "keep" or by_row

    def __call__(self, block: pa.Table) -> pa.Table:
        judged = self._reader.judged(block)
        found = judged.judgement
        tally = found.tally
        for bad in judged.bad:
            where = (TYPE if bad.kind == "type" else UNREADABLE, bad.column or "")
            first = Finding(rows=1, first=(bad.file << ROW_BITS) + bad.row, why=bad.reason)
            tally = tally + Tally(rows=1, faults={where: first})
        label = (
            class_codes(found.table.column(self._label), self._classes)
            if self._label
            else np.full(len(found.row_id), -1, dtype=np.int64)
        )
        out = _Found(
            row_id=found.row_id,
            label=label,
            verdict=found.verdict,
            digest=found.digest if self._digests else None,
            columns=found.table.select(self._columns),
            keys=found.keys,
            tally=tally,
        )
        return pa.table({FOUND: [pickle.dumps(out, protocol=5)]})


def judge(blocks: Blocks, reader: RowReader, spec: DatasetSpec, count: Count) -> Judged:
    """Read everything once; return what is kept and where it goes. `count` hears how many rows have been read.

    Raises:
        RequestError: A rule says `fail` and a row breaks it, an expectation is not met, or a split is empty.
    """
    rows = blocks.dataset().map_batches(_Judge(reader, spec), batch_format="pyarrow", batch_size=None)
    parts: list[_Found] = []
    seen = 0
    for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
        for found in batch.column(FOUND).to_pylist():  # pyright: ignore[reportAttributeAccessIssue]
            parts.append(pickle.loads(found))  # noqa: S301 - our own worker made it, a moment ago
            seen += parts[-1].tally.rows
        count(seen)
    parts.sort(key=lambda part: part.row_id[0] if len(part.row_id) else -1)
    row_id = np.concatenate([np.empty(0, dtype=np.int64), *(part.row_id for part in parts)])
    tally = total(part.tally for part in parts)
    if not tally.rows:
        raise RequestError(f"{', '.join(sorted({part.path for part in blocks.parts})[:3])}: the source has no rows.")
    verdict = np.concatenate([np.empty(0, dtype=np.int8), *(part.verdict for part in parts)])
    verdict, tally = _repeated(parts, row_id, verdict, tally, spec)
    refuse(tally, spec.rules, blocks.locate)
    check_nulls(tally, reader.null_limits)
    kept = verdict == KEPT
    check_expectations(spec.expect, tally, int(kept.sum()))
    label = np.concatenate([np.empty(0, dtype=np.int64), *(part.label for part in parts)])
    split = np.full(len(verdict), -1, dtype=np.int8)
    split[kept] = _split(parts, spec, label, kept)
    refuse_empty(split)
    return Judged(row_id=row_id, label=label, verdict=verdict, split=split, tally=tally)


def _repeated(
    parts: list[_Found],
    row_id: npt.NDArray[np.int64],
    verdict: npt.NDArray[np.int8],
    tally: Tally,
    spec: DatasetSpec,
) -> tuple[npt.NDArray[np.int8], Tally]:
    """Mark rows that repeat an earlier one, and values that are not unique."""
    unique = [name for column in spec.columns if column.unique for name in column.names()]
    for name in unique:
        later = Repeats.join([part.keys[name] for part in parts]).later()
        marked = mark(verdict, row_id, later, NOT_UNIQUE)
        tally = tally.with_fault(NOT_UNIQUE, row_id[marked != verdict], name)
        verdict = marked
    if spec.rules.duplicates != "keep":
        kept = verdict == KEPT
        digest = _digests(parts)
        later = Repeats.of(digest[kept], row_id[kept]).later()
        marked = mark(verdict, row_id, later, DUPLICATE)
        tally = tally.with_fault(DUPLICATE, row_id[marked != verdict])
        verdict = marked
    return verdict, tally


def _digests(parts: list[_Found]) -> Words:
    return np.concatenate([np.empty((0, 2), dtype=np.uint64), *(p.digest for p in parts if p.digest is not None)])


def _split(parts: list[_Found], spec: DatasetSpec, label: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_]) -> Codes:
    columns = pa.table({})
    if needs(spec.split):
        columns = pa.concat_tables([part.columns for part in parts]).filter(pa.array(kept))
    digest = None if parts[0].digest is None else _digests(parts)[kept]
    classes = label[kept] if spec.classes() else None
    return split_rows(spec.split, int(kept.sum()), columns, label=classes, digest=digest)


def find(ids: npt.NDArray[np.int64], codes: Codes, row_id: npt.NDArray[np.int64]) -> Codes:
    """Return the code of each row; `ids` rise and hold every row id."""
    return codes[np.searchsorted(ids, row_id)]
