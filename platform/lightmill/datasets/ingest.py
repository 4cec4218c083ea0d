"""Ingestion: source rows in, one new immutable dataset version out.

Passes over the source: judge every row, and find from what that leaves duplicates and splits; fit the preparation on
the training split, stage by stage, and profile; prepare and seal. Each reads the source anew and streams.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray

from lightmill.datasets.carried import token_preparation, training_preparation
from lightmill.datasets.columns import FEATURES
from lightmill.datasets.judging import Judged, judge
from lightmill.datasets.measuring import Measured, measure
from lightmill.datasets.preparing import Prepare, in_place, with_features
from lightmill.datasets.rows import RowReader, open_blocks
from lightmill.datasets.sealed import SealedSink
from lightmill.datasets.translate import user_errors
from lightmill.datasets.verdicts import KEPT, REASONS, action_for
from lightmill.errors import RequestError
from lightmill.models.preparation.applying import Preparation, Resources
from lightmill.models.preparation.functions import check_functions
from lightmill.models.preparation.stages import check_order
from lightmill.records.assets import ColumnProfile, DatasetCard, FileEntry, Profile, Provenance, VersionSummary
from lightmill.records.dataset_spec import FEATURE_ROLES, DatasetSpec
from lightmill.records.fitted import FittedPreparation, InputColumn, TabularPreparation
from lightmill.records.jobs import Progress
from lightmill.records.profile import PROFILE_FILE, ColumnSummary
from lightmill.records.references import AssetKind
from lightmill.records.signature import Preprocessing, TensorSpec
from lightmill.records.splitting import SPLITS
from lightmill.registry import Content, Registry, RegistryLocation

Report = Callable[[Progress], None]
REPORT_S = 1.0


def ingest(
    spec: DatasetSpec,
    folder: Path,
    registry: Registry,
    location: RegistryLocation,
    provenance: Provenance,
    report: Report,
    *,
    allow_python: bool = False,
) -> VersionSummary:
    """Read, check, mask, split, prepare and seal the rows of a specification; return the new version.

    `allow_python` lets `python` steps call functions.

    Raises:
        NotFoundError: There is nothing at a path.
        RequestError: The source breaks the declared schema where a rule says `fail`, an expectation is not met, a step
            does not fit the rows, or a split is empty.
        UnavailableError: A place does not answer.
    """
    check_order(spec.prepare)
    resources = Resources(root=folder, allow_python=allow_python)
    check_functions(spec.prepare, allowed=allow_python)
    reader = RowReader(spec, location)
    reader.check_masking()
    blocks = open_blocks(spec, folder)
    with user_errors():
        judged = judge(blocks, reader, spec, _teller(report, "validate", 0))
        rows = int((judged.split >= 0).sum())

        def told(phase: str) -> Callable[[int], None]:
            return _teller(report, phase, rows)

        shared = ray.put((judged.row_id, judged.split, judged.verdict))
        measured = measure(blocks, reader, spec, judged, shared, folder, resources, told("fit and profile"))
        told("seal")
        preprocessing = in_place(spec, measured.found)
        fitted = with_features(spec, measured.found.record())
        preparation = None if preprocessing is not None else _preparation(spec, reader, fitted, resources)
        fitted_now, training = training_preparation(fitted, reader.schema.empty_table(), resources)
        width = len(spec.feature_columns()) if preprocessing else preparation.width if preparation else 0
        if spec.features.shape and math.prod(spec.features.shape) != width:
            raise RequestError(f"features.shape is {list(spec.features.shape)}, but the prepared columns give {width}.")
        draft = registry.begin(AssetKind.DATASET, spec.name)
        try:
            prepare = Prepare(
                reader,
                blocks,
                spec,
                shared,
                preprocessing,
                fitted_now,
                ray.put(dict(measured.found.dropped)),
                training,
                resources,
            )
            sink = SealedSink(location, draft.id, _tags(spec), prepare)
            blocks.dataset().write_datasink(sink)
            files = tuple(sorted(sink.files, key=lambda entry: entry.path))
            _refuse_empty(files)
            notes = draft.seal_files({PROFILE_FILE: measured.profile.model_dump_json().encode()})
        except BaseException:
            draft.release()
            raise
    card = DatasetCard(
        features=TensorSpec(name=spec.features.name, datatype="FP32", shape=spec.features.shape or (width,)),
        classes=spec.classes(),
        preprocessing=preprocessing or Preprocessing(),
        source_columns=spec.kept_columns(),
        sources=blocks.source.describe(),
        profile=_profile(spec, judged, measured, files),
        description=spec.description,
        licence=spec.licence,
        preparation=preparation,
        tokens=token_preparation(fitted, _inputs(spec)),
        training=training,
    )
    content = Content(files=(*files, *notes.files), blobs=notes.blobs, dataset=card, provenance=provenance)
    summary = registry.commit(draft, content)
    told("done")(rows)
    return summary


def _teller(report: Report, phase: str, total: int) -> Callable[[int], None]:
    """Return what reports the rows of a phase: at its beginning, at its end, and every second between."""
    report(Progress(phase=phase, total=total, unit="rows"))
    last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= REPORT_S:
            last = time.monotonic()
            report(Progress(phase=phase, done=done, total=total, unit="rows"))

    return tell


def _tags(spec: DatasetSpec) -> dict[str, str]:
    """Return the first tag of every source column that has one; prepared features take none."""
    return {name: column.tags[0] for column in spec.columns if column.tags for name in column.names()}


def _refuse_empty(files: tuple[FileEntry, ...]) -> None:
    empty = [name for name in SPLITS if not any(entry.group == name for entry in files)]
    if empty:
        raise RequestError(
            f"After preparation the split {empty[0]!r} has no rows; change `split`, or what filters rows."
        )


def _preparation(
    spec: DatasetSpec, reader: RowReader, fitted: FittedPreparation, resources: Resources
) -> TabularPreparation | None:
    """Return what serving applies: a row of features for each row of source columns, if there are features."""
    columns = _inputs(spec)
    per_row = fitted.per_row()
    rows = reader.schema.empty_table().select([column.name for column in columns])
    found = Preparation(per_row, resources=resources).apply(rows)
    if FEATURES not in found.column_names:
        return None
    kind = found.column(FEATURES).type
    storage = kind.storage_type if isinstance(kind, pa.FixedShapeTensorType) else kind
    return TabularPreparation(columns=columns, fitted=per_row, width=storage.list_size)


def _inputs(spec: DatasetSpec) -> tuple[InputColumn, ...]:
    """Return the source columns that a model is given: features, images, and texts that a step names."""
    named = {name for step in spec.prepare for name in (*getattr(step, "columns", ()), getattr(step, "column", ""))}
    return tuple(
        InputColumn(name=name, dtype=column.dtype, shape=column.shape)
        for column in spec.columns
        for name in column.names()
        if column.role in FEATURE_ROLES or (column.role == "text" and name in named)
    )


def _profile(spec: DatasetSpec, judged: Judged, measured: Measured, files: tuple[FileEntry, ...]) -> Profile:
    """Return the summary that the catalog shows; the whole profile is a file of the version."""
    rejected: dict[str, dict[str, int]] = {"drop": {}, "quarantine": {}}
    for (code, _), found in judged.tally.faults.items():
        action = action_for(code, spec.rules)
        if action in rejected:
            counts = rejected[action]
            counts[REASONS[code]] = counts.get(REASONS[code], 0) + found.rows
    kept = judged.verdict == KEPT
    classes = np.bincount(judged.label[kept], minlength=len(spec.classes())) if spec.classes() else []
    sealed = {name: sum(entry.rows or 0 for entry in files if entry.group == name) for name in SPLITS}
    return Profile(
        rows_in=judged.tally.rows,
        rows_kept=sum(sealed.values()),
        dropped=dict(sorted(rejected["drop"].items())),
        quarantined=dict(sorted(rejected["quarantine"].items())),
        masked=measured.masked,
        clipped=sum(judged.tally.clipped.values()),
        splits=sealed,
        classes={name: int(count) for name, count in zip(spec.classes(), classes, strict=True)},
        columns=tuple(_column(column) for column in measured.profile.columns if column.role in ("feature", "image")),
    )


def _column(column: ColumnSummary) -> ColumnProfile:
    numbers = column.numbers
    return ColumnProfile(
        name=column.name,
        dtype=column.dtype,
        count=column.count,
        missing=column.nulls,
        minimum=numbers.minimum if numbers else None,
        maximum=numbers.maximum if numbers else None,
        mean=numbers.mean if numbers else None,
        std=numbers.std if numbers else None,
    )
