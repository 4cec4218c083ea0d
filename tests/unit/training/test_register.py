"""From a sealed checkpoint to a registered version whose held-out metrics let it be promoted; without Ray."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import torch

from lightmill.datasets.parquet import write_encrypted
from lightmill.records.annotations import Stage
from lightmill.records.assets import FileEntry, Provenance, RunCard
from lightmill.records.references import AssetKind
from lightmill.records.search import parse_comparisons
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.registry import Content, OpenVersion, Registry, RegistryLocation
from lightmill.registry.promotion import decide
from lightmill.registry.tensors import plain_tensors
from lightmill.training.objectives import CrossEntropy
from lightmill.training.register import register_best
from lightmill.training.rows import Rows
from tests.attacks.scene import dataset_card
from tests.unit.registry.world import World

LOGISTIC = Architecture(name="logistic", arguments={"inputs": 1, "classes": 2})


def dataset(registry: Registry) -> OpenVersion:
    """Four rows to test on: those below zero are of class 0, but for one."""
    features = pa.FixedSizeListArray.from_arrays(pa.array([-2.0, -1.0, 1.0, 2.0], pa.float32()), 1)
    rows = pa.table({"row_id": range(4), "label": pa.array([0, 1, 1, 1], pa.int64()), "features": features})
    draft = registry.begin(AssetKind.DATASET, "d")
    digest, size = draft.put_object(write_encrypted(rows, draft.subkey, {}))
    entry = FileEntry(path="test/0.parquet", size=size, sha256=digest, object=digest, rows=4, group="test")
    return registry.open(registry.commit(draft, Content(files=(entry,), dataset=dataset_card())).id)


def test_what_was_measured_on_the_test_split_is_evidence(tmp_path: Path) -> None:
    world = World(tmp_path)
    registry, rows = world.registry, dataset(world.registry)
    location = RegistryLocation(store_url=str(world.root), keyring_path=str(world.ring.path), workspace="default")
    draft = registry.begin(AssetKind.RUN, "run-1")
    from lightmill.models.architectures import build_module

    state = build_module(LOGISTIC).state_dict()
    state = {name: torch.tensor([[-1.0], [1.0]]) if value.ndim == 2 else value * 0 for name, value in state.items()}
    sealed = draft.seal_tensors(plain_tensors({f"model/{name}": value for name, value in state.items()}))
    card = RunCard(model="m", epoch=2, metrics={"validation_loss": 0.5})
    best = registry.commit(draft, Content(tensors=sealed.tensors, blobs=sealed.blobs, run=card)).id
    spec = TrainSpec(model="m", dataset="d", architecture=Architecture(name="logistic", arguments={}))
    objective = CrossEntropy(dataset_card(), spec.architecture)
    reader = Rows(objective, dataset_card())
    made = Provenance(dataset=rows.id, run="run-1")

    summary = register_best(spec, objective, reader, rows, registry, location, best, made)

    assert summary.metrics["test_accuracy"] == 0.75
    notes = registry.notes(summary.id)
    (evaluation,) = notes.evaluations
    assert (evaluation.dataset, evaluation.split, evaluation.by) == (rows.id, "test", "run run-1")
    assert evaluation.metrics == {"test_accuracy": 0.75}
    assert world.catalog.notes.get(AssetKind.MODEL, "m", 1) == notes
    assert decide(notes, Stage.PRODUCTION, parse_comparisons("test_accuracy>=0.75")).evidence == evaluation
    assert decide(notes, Stage.PRODUCTION, parse_comparisons("test_accuracy>=0.8")).missing
