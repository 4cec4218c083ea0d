"""The passes between: fit the preparation on the training split, and profile the rows that are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from lightmill.datasets.columns import ROW_ID
from lightmill.datasets.conversion import arrow_type
from lightmill.datasets.judging import KeptRows
from lightmill.datasets.passes import Passes
from lightmill.datasets.profiling import ProfilePart, Profiler
from lightmill.datasets.progress import Meter
from lightmill.models.preparation.applying import Resources
from lightmill.models.preparation.stages import Found, Stage, StageFitter, StageSums, settle, stages
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.masking import MaskingReport
from lightmill.records.quality import ColumnRule
from lightmill.records.splitting import SPLITS

TRAIN = SPLITS.index("train")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The fitted preparation, the sums of the profile of the rows that are kept, and what masking did."""

    found: Found
    profiler: Profiler
    part: ProfilePart
    masked: MaskingReport | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sums:
    """What blocks add up to."""

    rows: int
    sums: StageSums | None
    part: ProfilePart | None
    masked: MaskingReport | None

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            rows=self.rows + other.rows,
            sums=self.sums + other.sums if self.sums is not None and other.sums is not None else None,
            part=self.part + other.part if self.part is not None and other.part is not None else None,
            masked=self.masked + other.masked if self.masked is not None and other.masked is not None else None,
        )


class _MeasureTask:
    """Measures the blocks of a task."""

    def __init__(
        self, kept: KeptRows, fitter: StageFitter | None, profiler: Profiler | None, *, every_split: bool
    ) -> None:
        self._kept = kept
        self._every_split = every_split
        self._fitter = fitter
        self._profiler = profiler

    def __call__(self, blocks: Iterator[pa.Table], number: int) -> _Sums | None:
        total: _Sums | None = None
        for block in blocks:
            one = self._of(block, total.part if total else None)
            total = one if total is None else total + one
        return total

    def _of(self, block: pa.Table, before: ProfilePart | None) -> _Sums:
        kept = self._kept.of(block)
        masked, report = self._kept.reader.masked(kept.table, kept.row_id)
        table = masked.add_column(0, ROW_ID, pa.array(kept.row_id))
        fitted = None if self._every_split else kept.split == TRAIN
        return _Sums(
            rows=len(table),
            sums=self._fitter.measure(table, fitted) if self._fitter else None,
            part=self._profiler.of(table, kept.row_id, kept.split, before) if self._profiler else None,
            masked=report,
        )


def measure(
    passes: Passes,
    kept: KeptRows,
    spec: DatasetSpec,
    folder: Path,
    resources: Resources,
    meter: Callable[[], Meter],
    known: Found | None = None,
) -> Measured:
    """Read once for every stage of fitting, at least once; the first pass profiles as well.

    With `known`, a preparation that has been fitted, the rows are only profiled.

    Raises:
        NotFoundError: A tokenizer file is not in `folder`.
        RequestError: A step does not fit the rows, or there is nothing to fit on.
    """
    profiler = Profiler(_shown_columns(spec, kept.reader.schema))
    found = known or settle(spec.prepare, folder)
    needed = [] if known else [*stages(spec.prepare)]
    first: _Sums | None = None
    for number, stage in enumerate(needed or [None]):
        fitter = StageFitter(spec.prepare, stage, found, resources) if stage else None
        task = _MeasureTask(kept, fitter, None if number else profiler, every_split=_is_of_all(spec, stage))
        total = _total(passes, f"measure-{number}", task, meter())
        first = first or total
        if stage is not None and total is not None and total.sums is not None:
            found = found | total.sums.finish()
    if first is None or first.part is None:  # there were rows, or the first pass would have refused
        raise RuntimeError("no block came back")
    return Measured(found=found, profiler=profiler, part=first.part, masked=first.masked)


def _total(passes: Passes, name: str, task: _MeasureTask, meter: Meter) -> _Sums | None:
    total: _Sums | None = None
    for sums in passes.run(name, task, meter):
        if sums is not None:
            total = sums if total is None else total + sums
            meter.count(sums.rows)
    meter.finish()
    return total


def _is_of_all(spec: DatasetSpec, stage: Stage | None) -> bool:
    """Whether a stage looks at all splits: rows that repeat others go, wherever they are."""
    return stage is not None and any(spec.prepare[place].step == "deduplicate" for place in stage.fits)


def _shown_columns(spec: DatasetSpec, masked: pa.Schema) -> list[ColumnRule]:
    """Return the columns that a profile is of: those that masking leaves, with their declared type."""
    kept = {field.name: field.type for field in masked}
    return [
        column
        for column in spec.columns
        if column.role != "ignore" and all(kept.get(name) == arrow_type(column) for name in column.names())
    ]
