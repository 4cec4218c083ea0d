"""Texts with labels and numbers, from sealed rows through a run of one worker to a registered version that answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lightmill.datasets.parquet import write_encrypted
from lightmill.errors import RequestError
from lightmill.models.preparation.tokens import fixed_list
from lightmill.records.assets import DatasetCard, FileEntry, Provenance
from lightmill.records.fitted import TokenPreparation
from lightmill.records.references import AssetKind
from lightmill.records.specs import TrainSpec
from lightmill.registry import Content, OpenVersion, RegistryLocation
from lightmill.serving.loading import load_model
from lightmill.training.checks import check_data
from lightmill.training.loop import LoopConfig, run_epochs
from lightmill.training.objectives import build_objective
from lightmill.training.register import register_best
from lightmill.training.rows import Rows
from lightmill.training.session import LoneSession
from lightmill.training.team import Team
from tests.attacks.scene import dataset_card
from tests.unit.registry.world import World

LENGTH = 5
ENCODER = {"name": "encoder", "arguments": {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0}}


def texts(rows: int, seed: int) -> pa.Table:
    """Rows whose first token tells the class; the price is twice the class."""
    chance = np.random.default_rng(seed)
    label = chance.integers(0, 2, rows)
    tokens = chance.integers(3, 9, (rows, LENGTH))
    tokens[:, 0] = 1 + label
    there = np.arange(LENGTH) < chance.integers(2, LENGTH + 1, rows)[:, None]
    return pa.table(
        {
            "row_id": np.arange(rows),
            "label": label,
            "tokens": fixed_list(np.where(there, tokens, 0).astype(np.int32)),
            "tokens_mask": fixed_list(there.astype(np.uint8)),
            "price": label * 2.0,
        }
    )


class Place:
    """A registry with the version of a dataset."""

    def __init__(
        self, folder: Path, *, sizes: dict[str, int] | None = None, spoilt: dict[str, Any] | None = None
    ) -> None:
        self.world = World(folder)
        self.location = RegistryLocation(
            store_url=str(self.world.root), keyring_path=str(self.world.ring.path), workspace="default"
        )
        draft = self.world.registry.begin(AssetKind.DATASET, "d")
        entries = []
        for seed, (split, rows) in enumerate((sizes or {"train": 64, "validation": 20, "test": 20}).items()):
            table = texts(rows, seed)
            for name, values in (spoilt or {}).items():
                table = table.set_column(table.column_names.index(name), name, pa.array(values * rows)[:rows])
            digest, size = draft.put_object(write_encrypted(table, draft.subkey, {}))
            path = f"{split}/0.parquet"
            entries.append(FileEntry(path=path, size=size, sha256=digest, object=digest, rows=rows, group=split))
        plain = dataset_card(columns=("price",), classes=("no", "yes"))
        tokens = TokenPreparation(column="tokens", length=LENGTH, segments="tokens_mask", vocabulary=9)
        features = plain.features.model_copy(update={"shape": (0,)})
        self.card: DatasetCard = plain.model_copy(update={"tokens": tokens, "features": features})
        id = self.world.registry.commit(draft, Content(files=tuple(entries), dataset=self.card)).id
        self.version: OpenVersion = self.world.registry.open(id)


def spec_of(**more: Any) -> TrainSpec:
    base = {
        "model": "m",
        "dataset": "d",
        "architecture": ENCODER,
        "epochs": 6,
        "batch_size": 16,
        "workers": 1,
        "learning_rate": 0.02,
        "alias": None,
    }
    return TrainSpec.model_validate(base | more)


@pytest.mark.parametrize(
    "more",
    [
        {"class_weights": "balanced", "checkpoint_activations": True},
        {"objective": "bce", "early_stopping": {"patience": 6}},
        {"objective": "mse", "target": "price", "ema": 0.5},
    ],
    ids=["classes", "binary", "numbers"],
)
def test_a_model_of_texts_is_trained_registered_and_answers(tmp_path: Path, more: dict[str, Any]) -> None:
    place = Place(tmp_path)
    profile = place.card.profile.model_copy(update={"classes": {"no": 50, "yes": 54}})
    counted = place.card.model_copy(update={"profile": profile})
    spec = spec_of(**more) if "class_weights" not in more else spec_of(**(more | {"class_weights": (1.0, 0.9)}))
    objective = build_objective(spec, counted)
    check_data(spec, objective, counted, place.version, place.location)
    config = LoopConfig(
        spec=spec,
        architecture=objective.architecture,
        run="run-1",
        run_folder=str(tmp_path / "runs"),
        location=place.location,
        dataset=place.version.id,
        provenance=Provenance(run="run-1", dataset=place.version.id),
        device="cpu",
        threads=1,
        lanes=4,
    )
    session = LoneSession()
    run_epochs(config, Team.alone(), session)
    assert session.reports[-1]["loss"] < session.reports[0]["loss"]
    registry = place.world.new_registry()
    summary = register_best(
        spec,
        objective,
        Rows(objective, place.card),
        place.version,
        registry,
        place.location,
        session.sealed[-1],
        Provenance(run="run-1"),
    )
    model = load_model(place.location, summary.id)
    assert model.card.tokens is not None and model.card.preparation is None
    found = model.predict(np.array([[1, 5, 6], [2, 5, 6]])).arrays()
    if objective.target:
        np.testing.assert_allclose(found["value"], [0, 2], atol=0.6)
        assert summary.metrics.keys() >= {"test_mae", "test_rmse", "validation_rmse"}
    else:
        assert found["label"].tolist() == [0, 1] and found["probabilities"].shape == (2, 2)
        assert summary.metrics["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("more", "place", "says"),
    [
        ({}, {"sizes": {"train": 9, "validation": 3}}, "The split 'test' of"),
        ({}, {"spoilt": {"label": [0, 2]}}, "holds 2 in the split 'train'"),
        ({"objective": "mse", "target": "price"}, {"spoilt": {"price": [1.0, None]}}, "is missing in"),
        ({"objective": "mse", "target": "price"}, {"spoilt": {"price": ["a", "b"]}}, "holds string"),
        ({"objective": "mse", "target": "price"}, {"spoilt": {"price": [1.0, float("nan")]}}, "not finite"),
        ({"early_stopping": {"metric": "validation_f1"}}, {}, "early_stopping.metric 'validation_f1'"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_any_worker(
    tmp_path: Path, more: dict[str, Any], place: dict[str, Any], says: str
) -> None:
    made, spec = Place(tmp_path, **place), spec_of(**more)
    with pytest.raises(RequestError) as caught:
        check_data(spec, build_objective(spec, made.card), made.card, made.version, made.location)
    assert says in caught.value.message
