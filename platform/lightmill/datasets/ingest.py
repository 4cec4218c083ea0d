"""Ingestion: source rows in, one new immutable dataset version out.

Three passes over the source: judge every row (and find duplicates and splits from what that leaves, 33 bytes
a row); add up statistics over the kept ones; prepare and seal. The first two stream; the third holds the
prepared rows of one source file in the worker that seals them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data

from lightmill.datasets.cleaning import (
    DUPLICATE,
    KEPT,
    MISSING,
    OUT_OF_RANGE,
    REASONS,
    UNKNOWN_LABEL,
    Cleaner,
    classes_of,
    mark_duplicates,
)
from lightmill.datasets.columns import FEATURES, LABEL, ROW_ID
from lightmill.datasets.csv_source import CsvSource, column_types, describe_source, find_source
from lightmill.datasets.sealed import SPLIT_COLUMN, SealedSink
from lightmill.datasets.splits import SPLITS, assign_splits
from lightmill.datasets.translate import user_errors
from lightmill.errors import RequestError
from lightmill.models.preprocessing import Moments, Preparation, fit_standardize
from lightmill.records.assets import ColumnProfile, DatasetCard, Profile, Provenance, VersionSummary
from lightmill.records.jobs import Progress
from lightmill.records.references import AssetKind
from lightmill.records.signature import Preprocessing, TensorSpec
from lightmill.records.specs import DatasetSpec
from lightmill.registry import Content, Registry, RegistryLocation

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judgement:
    """What the first pass found, in source order: `split` int8 is -1 for a dropped row."""

    row_id: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    verdict: npt.NDArray[np.int8]
    split: npt.NDArray[np.int8]
    clipped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Statistics:
    """What the second pass adds up over blocks.

    `train` and `kept` are moments of the training split and of all kept rows; `missing` counts values of all
    rows; `minimum` and `maximum` are of kept rows.
    """

    train: Moments
    kept: Moments
    missing: npt.NDArray[np.int64]
    minimum: npt.NDArray[np.float64]
    maximum: npt.NDArray[np.float64]


def ingest(
    spec: DatasetSpec,
    folder: Path,
    registry: Registry,
    location: RegistryLocation,
    provenance: Provenance,
    report: Report,
) -> VersionSummary:
    """Read, validate, clean, split, prepare and seal a source; return the new version.

    Raises:
        NotFoundError: There is no source file.
        RequestError: The source breaks the declared schema where a rule says `fail`, lacks a column, or
            leaves a split empty.
    """
    path = find_source(spec, folder)
    if not classes_of(spec):
        raise RequestError("The label column declares no `values`; list the classes in order.")
    source = ray.data.read_datasource(CsvSource(path, column_types(spec)), override_num_blocks=1)
    cleaner = Cleaner(spec)
    with user_errors():
        report(Progress(phase="validate", done=0, total=3, unit="passes"))
        judged = _judge(source, cleaner, spec)
        shared = ray.put((judged.row_id, judged.split))
        report(Progress(phase="profile", done=1, total=3, unit="passes"))
        statistics = _measure(source, cleaner, shared)
        preprocessing = _fit(spec, statistics)
        report(Progress(phase="seal", done=2, total=3, unit="passes"))
        draft = registry.begin(AssetKind.DATASET, spec.name)
        sink = SealedSink(location, draft.id, _tags(spec))
        prepared = source.map_batches(
            _Prepare(cleaner, shared, preprocessing, spec), batch_format="pyarrow", batch_size=None
        )
        try:
            prepared.write_datasink(sink)
        except BaseException:
            draft.release()
            raise
    card = DatasetCard(
        features=TensorSpec(name=spec.features.name, datatype="FP32", shape=spec.features.shape),
        classes=classes_of(spec),
        preprocessing=preprocessing,
        source_columns=_source_columns(spec),
        sources=(describe_source(path),),
        profile=_profile(spec, judged, statistics),
        description=spec.description,
        licence=spec.licence,
    )
    files = tuple(sorted(sink.files, key=lambda entry: entry.path))
    summary = registry.commit(draft, Content(files=files, dataset=card, provenance=provenance))
    report(Progress(phase="done", done=3, total=3, unit="passes"))
    return summary


# -- first pass: judge ------------------------------------------------------


def _judge(source: ray.data.Dataset, cleaner: Cleaner, spec: DatasetSpec) -> _Judgement:
    columns: dict[str, list[Any]] = {}
    blocks = source.map_batches(_Judge(cleaner), batch_format="pyarrow", batch_size=None)
    for batch in blocks.iter_batches(batch_size=None, batch_format="numpy"):
        for name, values in batch.items():
            columns.setdefault(str(name), []).append(values)
    if not columns or not sum(len(part) for part in columns[ROW_ID]):
        raise RequestError(f"{spec.source.path} has no rows.")
    found = {name: np.concatenate(parts) for name, parts in columns.items()}
    order = np.argsort(found[ROW_ID], kind="stable")
    found = {name: values[order] for name, values in found.items()}
    verdict = found["verdict"]
    if spec.rules.duplicates != "keep":
        mark_duplicates(np.stack([found["digest_0"], found["digest_1"]], axis=1), verdict)
    _refuse(spec, verdict, found[ROW_ID])
    kept = verdict == KEPT
    split = np.full(len(verdict), -1, dtype=np.int8)
    split[kept] = assign_splits(found[LABEL][kept], spec.split)
    for code, name in enumerate(SPLITS):
        if not (split == code).any():
            raise RequestError(f"The split {name!r} gets no rows of {int(kept.sum())} kept; change `split`.")
    clipped = int(found["clipped"].sum())
    return _Judgement(row_id=found[ROW_ID], label=found[LABEL], verdict=verdict, split=split, clipped=clipped)


class _Judge:
    """Turns a block into what the driver needs to know of each row."""

    def __init__(self, cleaner: Cleaner) -> None:
        self._cleaner = cleaner

    def __call__(self, block: pa.Table) -> dict[str, npt.NDArray[Any]]:
        clean = self._cleaner.clean(block)
        clipped = np.zeros(len(clean.row_id), dtype=np.int64)
        clipped[:1] = clean.clipped
        return {
            ROW_ID: clean.row_id,
            LABEL: clean.label,
            "verdict": clean.verdict,
            "digest_0": clean.digest[:, 0],
            "digest_1": clean.digest[:, 1],
            "clipped": clipped,
        }


def _refuse(spec: DatasetSpec, verdict: npt.NDArray[np.int8], row_id: npt.NDArray[np.int64]) -> None:
    """Raise if a rule says `fail` and a row breaks it."""
    rules = {
        MISSING: ("missing", spec.rules.missing),
        OUT_OF_RANGE: ("out_of_range", spec.rules.out_of_range),
        UNKNOWN_LABEL: ("out_of_range", spec.rules.out_of_range),
        DUPLICATE: ("duplicates", spec.rules.duplicates),
    }
    for code, (rule, action) in rules.items():
        rows = row_id[verdict == code]
        if len(rows) and action == "fail":
            raise RequestError(
                f"{spec.source.path}: {len(rows)} rows have a fault ({REASONS[code]}), first data row "
                f"{int(rows[0]) + 1}, and rules.{rule} is 'fail'. Correct the source, or set rules.{rule}."
            )


# -- second pass: measure ---------------------------------------------------


def _lookup(shared: Any, row_id: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
    """Return the split of each row; `shared` is the reference to (sorted row ids, splits)."""
    ids, split = ray.get(shared)
    return split[np.searchsorted(ids, row_id)]


class _Measure:
    """Turns a block into one row of sums."""

    def __init__(self, cleaner: Cleaner, shared: Any) -> None:
        self._cleaner = cleaner
        self._shared = shared

    def __call__(self, block: pa.Table) -> dict[str, npt.NDArray[Any]]:
        clean = self._cleaner.clean(block)
        split = _lookup(self._shared, clean.row_id)
        kept = clean.features[split >= 0]
        train, all_kept = Moments.of(clean.features[split == 0]), Moments.of(kept)
        empty = np.full((1, clean.features.shape[1]), np.nan)
        absent = np.isnan(clean.features).sum(axis=0)
        return {
            "train_count": np.array([train.count]),
            "train_mean": train.mean[None],
            "train_deviations": train.deviations[None],
            "kept_count": np.array([all_kept.count]),
            "kept_mean": all_kept.mean[None],
            "kept_deviations": all_kept.deviations[None],
            "missing": absent[None],
            "minimum": kept.min(axis=0)[None] if len(kept) else empty,
            "maximum": kept.max(axis=0)[None] if len(kept) else empty,
        }


def _measure(source: ray.data.Dataset, cleaner: Cleaner, shared: Any) -> _Statistics:
    rows = source.map_batches(_Measure(cleaner, shared), batch_format="pyarrow", batch_size=None).take_all()

    def moments(prefix: str) -> Moments:
        parts = [
            Moments(
                count=int(row[f"{prefix}_count"]),
                mean=np.asarray(row[f"{prefix}_mean"], dtype=np.float64),
                deviations=np.asarray(row[f"{prefix}_deviations"], dtype=np.float64),
            )
            for row in rows
        ]
        return functools.reduce(Moments.__add__, parts)

    return _Statistics(
        train=moments("train"),
        kept=moments("kept"),
        missing=np.sum([row["missing"] for row in rows], axis=0),
        minimum=np.nanmin([row["minimum"] for row in rows], axis=0),
        maximum=np.nanmax([row["maximum"] for row in rows], axis=0),
    )


def _fit(spec: DatasetSpec, statistics: _Statistics) -> Preprocessing:
    return Preprocessing(steps=tuple(fit_standardize(statistics.train) for _ in spec.prepare))


# -- third pass: prepare and seal -------------------------------------------


class _Prepare:
    """Turns a block of source rows into the rows that are sealed."""

    def __init__(self, cleaner: Cleaner, shared: Any, preprocessing: Preprocessing, spec: DatasetSpec) -> None:
        self._cleaner = cleaner
        self._shared = shared
        self._preprocessing = preprocessing
        self._columns = spec.feature_columns() if spec.keep_source_columns else ()

    def __call__(self, block: pa.Table) -> pa.Table:
        clean = self._cleaner.clean(block)
        split = _lookup(self._shared, clean.row_id)
        keep = split >= 0
        source = clean.features[keep].astype(np.float32)
        prepared = Preparation(self._preprocessing).apply(source)
        flat = pa.array(prepared.reshape(-1), type=pa.float32())
        columns: dict[str, pa.Array] = {
            ROW_ID: pa.array(clean.row_id[keep]),
            LABEL: pa.array(clean.label[keep]),
            FEATURES: pa.FixedSizeListArray.from_arrays(flat, prepared.shape[1]),
            SPLIT_COLUMN: pa.array(split[keep]),
        }
        for position, name in enumerate(self._columns):
            columns[name] = pa.array(source[:, position])
        return pa.table(columns)


def _source_columns(spec: DatasetSpec) -> tuple[str, ...]:
    return spec.feature_columns() if spec.keep_source_columns else ()


def _tags(spec: DatasetSpec) -> dict[str, str]:
    """Return the first tag of every kept column that has one; prepared features take none."""
    kept = set(_source_columns(spec))
    return {n: column.tags[0] for column in spec.columns if column.tags for n in column.names() if n in kept}


# -- what is said of it -----------------------------------------------------


def _profile(spec: DatasetSpec, judged: _Judgement, statistics: _Statistics) -> Profile:
    kept = judged.verdict == KEPT
    mean, std = statistics.kept.mean_and_std()
    dtypes = {name: column.dtype for column in spec.columns for name in column.names()}
    columns = tuple(
        ColumnProfile(
            name=name,
            dtype=dtypes[name],
            count=statistics.kept.count,
            missing=int(statistics.missing[i]),
            minimum=float(statistics.minimum[i]),
            maximum=float(statistics.maximum[i]),
            mean=float(mean[i]),
            std=float(std[i]),
        )
        for i, name in enumerate(spec.feature_columns())
    )
    classes = np.bincount(judged.label[kept], minlength=len(classes_of(spec)))
    return Profile(
        rows_in=len(judged.row_id),
        rows_kept=int(kept.sum()),
        dropped={
            REASONS[code]: int((judged.verdict == code).sum())
            for code in (MISSING, OUT_OF_RANGE, UNKNOWN_LABEL, DUPLICATE)
            if (judged.verdict == code).any()
        },
        clipped=judged.clipped,
        splits={name: int((judged.split == code).sum()) for code, name in enumerate(SPLITS)},
        classes={name: int(n) for name, n in zip(classes_of(spec), classes, strict=True)},
        columns=columns,
    )
