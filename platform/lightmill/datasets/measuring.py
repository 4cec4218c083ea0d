"""The passes between: fit the preparation on the training split, and profile the rows that are kept."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from lightmill.datasets.columns import ROW_ID
from lightmill.datasets.conversion import arrow_type
from lightmill.datasets.judging import FOUND, Judged, find
from lightmill.datasets.profiling import ProfilePart, Profiler
from lightmill.datasets.rows import Blocks, RowReader
from lightmill.models.preparation.applying import Resources
from lightmill.models.preparation.stages import Found, StageFitter, StageSums, settle, stages
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.masking import MaskingReport
from lightmill.records.profile import ProfileRecord
from lightmill.records.quality import ColumnRule
from lightmill.records.splitting import SPLITS

Count = Callable[[int], None]
TRAIN = SPLITS.index("train")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The fitted preparation, the profile of the rows that are kept, and what masking did."""

    found: Found
    profile: ProfileRecord
    masked: MaskingReport | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sums:
    rows: int
    sums: StageSums | None
    part: ProfilePart | None
    masked: MaskingReport | None


class Kept:
    """The masked rows of a block that are kept; `shared` refers to (row ids, splits, verdicts) in Ray."""

    def __init__(self, reader: RowReader, shared: Any) -> None:
        self.reader = reader
        self._shared = shared

    def rows(self, block: pa.Table) -> tuple[pa.Table, npt.NDArray[np.int8], MaskingReport | None]:
        """Return the declared columns behind `row_id`, int8 [rows], and what masking did."""
        judgement = self.reader.judged(block).judgement
        ids, splits, _ = ray.get(self._shared)
        split = find(ids, splits, judgement.row_id)
        keep = split >= 0
        row_id = judgement.row_id[keep]
        table, report = self.reader.masked(judgement.table.filter(pa.array(keep)), row_id)
        return table.add_column(0, ROW_ID, pa.array(row_id)), split[keep], report


class _Measure:
    """Turns a block into one row of sums, pickled for Ray."""

    def __init__(self, kept: Kept, fitter: StageFitter | None, profiler: Profiler | None, *, every_split: bool) -> None:
        self._kept = kept
        self._every_split = every_split
        self._fitter = fitter
        self._profiler = profiler

    def __call__(self, block: pa.Table) -> pa.Table:
        table, split, report = self._kept.rows(block)
        train = table.filter(pa.array(split == TRAIN))
        out = _Sums(
            rows=len(table),
            sums=self._fitter.measure(table if self._every_split else train) if self._fitter else None,
            part=self._profiler.of(table, table.column(ROW_ID).to_numpy(), split) if self._profiler else None,
            masked=report,
        )
        return pa.table({FOUND: [pickle.dumps(out, protocol=5)]})


def measure(
    blocks: Blocks,
    reader: RowReader,
    spec: DatasetSpec,
    judged: Judged,
    shared: Any,
    folder: Path,
    resources: Resources,
    count: Count,
) -> Measured:
    """Read once for every stage of fitting, at least once; the first pass profiles as well.

    Raises:
        NotFoundError: A tokenizer file is not in `folder`.
        RequestError: A step does not fit the rows, or there is nothing to fit on.
    """
    kept = Kept(reader, shared)
    profiler = Profiler(_shown_columns(spec, reader.schema))
    found = settle(spec.prepare, folder)
    part: ProfilePart | None = None
    masked: MaskingReport | None = None
    for number, stage in enumerate([*stages(spec.prepare)] or [None]):
        fitter = StageFitter(spec.prepare, stage, found, resources) if stage else None
        sums = fitter.begin() if fitter else None
        alike = stage is not None and any(spec.prepare[place].step == "deduplicate" for place in stage.fits)
        measured = _Measure(kept, fitter, profiler if number == 0 else None, every_split=alike)
        done = 0
        rows = blocks.dataset().map_batches(measured, batch_format="pyarrow", batch_size=None)
        for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
            for data in batch.column(FOUND).to_pylist():  # pyright: ignore[reportAttributeAccessIssue]
                one: _Sums = pickle.loads(data)  # noqa: S301 - our own worker made it, a moment ago
                done += one.rows
                sums = sums + one.sums if sums is not None and one.sums is not None else sums
                if number == 0 and one.part is not None:
                    part = one.part if part is None else part + one.part
                    masked = one.masked if masked is None or one.masked is None else masked + one.masked
            count(done)
        if sums is not None:
            found = found | sums.finish()
    if part is None:  # there were rows, or the first pass would have refused
        raise RuntimeError("no block came back")
    return Measured(found=found, profile=profiler.finish(part, spec.name, judged.tally), masked=masked)


def _shown_columns(spec: DatasetSpec, masked: pa.Schema) -> list[ColumnRule]:
    """Return the columns that a profile is of: those that masking leaves, with their declared type."""
    kept = {field.name: field.type for field in masked}
    return [
        column
        for column in spec.columns
        if column.role != "ignore" and all(kept.get(name) == arrow_type(column) for name in column.names())
    ]
