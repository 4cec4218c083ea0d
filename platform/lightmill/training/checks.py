"""What is refused of a dataset before any worker starts: empty splits, labels and targets that cannot be learnt."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import compute

from lightmill.datasets.columns import LABEL
from lightmill.datasets.reading import read_file, split_files
from lightmill.errors import RequestError
from lightmill.records.assets import DatasetCard
from lightmill.records.specs import TrainSpec
from lightmill.records.splitting import SPLITS
from lightmill.registry import OpenVersion, RegistryLocation
from lightmill.training.objectives import Objective
from lightmill.training.objectives.regression import check_numeric
from lightmill.training.scores import check_scores
from lightmill.training.stopping import check_stopping


def check_data(
    spec: TrainSpec, objective: Objective, card: DatasetCard, dataset: OpenVersion, location: RegistryLocation
) -> None:
    """Refuse what would fail in the middle of a run.

    Labels that ingestion counted by class are not read again; others are, and so is a target, one column of each.

    Raises:
        RequestError: A split has no rows, a label is none of the classes, a target is missing or no number, or a metric
            is unknown.
    """
    check_scores(objective)
    check_stopping(spec, objective)
    for split in SPLITS:
        if not sum(entry.rows or 0 for entry in split_files(dataset, split)):
            raise RequestError(
                f"The split {split!r} of {dataset.id} has no rows; give it a share in `split` of the dataset's "
                "specification, or look at what drops its rows, and ingest again."
            )
    if objective.classes and sum(card.profile.classes.values()) != card.profile.rows_kept:
        _check_labels(objective, dataset, location)
    if objective.target is not None:
        for split in SPLITS:
            check_numeric(objective.target, _column(dataset, location, split, objective.target))


def _check_labels(objective: Objective, dataset: OpenVersion, location: RegistryLocation) -> None:
    for split in SPLITS:
        column = _column(dataset, location, split, LABEL)
        found = compute.min_max(column)  # pyright: ignore[reportAttributeAccessIssue] - made when pyarrow is imported
        low, high = found["min"].as_py(), found["max"].as_py()
        if column.null_count or low < 0 or high >= len(objective.classes):
            value = None if column.null_count else low if low < 0 else high
            classes = len(objective.classes)
            raise RequestError(
                f"Column {LABEL!r} holds {value} in the split {split!r} of {dataset.id}, but its {classes} classes are "
                f"0 to {classes - 1}; correct `values` of the label and ingest again."
            )


def _column(dataset: OpenVersion, location: RegistryLocation, split: str, name: str) -> pa.ChunkedArray:
    parts = [read_file(location, dataset.id, entry, [name]).column(name) for entry in split_files(dataset, split)]
    return pa.chunked_array([chunk for part in parts for chunk in part.chunks], type=parts[0].type)
