"""The configurations whose memory is planned and measured, and rows for them that no dataset is needed for.

Those of `HELD_OUT` were not used while the planner was written.
"""

from __future__ import annotations

from typing import Any

import torch

from lightmill.records.fitted import TokenPreparation
from lightmill.records.specs import TrainSpec
from lightmill.training.objectives import OBJECTIVES, Batch, Objective
from tests.attacks.scene import dataset_card

SMALL = {"mlp": {"hidden": [8]}, "convnet": {"channels": [2]}, "decoder": {"width": 16, "layers": 1, "heads": 2}}


def case(architecture: dict[str, Any], dataset: dict[str, Any], world: int = 1, **more: Any) -> dict[str, Any]:
    """Return a specification, the sizes of its dataset, and the number of workers."""
    objective = "causal_lm" if "length" in dataset else "cross_entropy"
    base = {"model": "m", "dataset": "d", "objective": objective, "workers": world, "optimizer": "adamw"}
    return {"spec": {**base, "architecture": architecture, **more}, "dataset": dataset, "world": world}


def _decoder(**more: Any) -> dict[str, Any]:
    return {"name": "decoder", "arguments": more}


TEXT = {"length": 256, "vocabulary": 3000}
HELD_OUT: dict[str, dict[str, Any]] = {
    "mlp, wide": case(
        {"name": "mlp", "arguments": {"hidden": [4096, 3072, 1024]}}, {"features": [600], "classes": 20}, batch_size=512
    ),
    "convnet": case(
        {"name": "convnet", "arguments": {"image": [3, 40, 40], "channels": [32, 48, 64], "hidden": 128}},
        {"features": [4800], "classes": 10},
        batch_size=96,
        optimizer={"name": "sgd", "arguments": {"momentum": 0.9}},
    ),
    "decoder": case(_decoder(width=320, layers=6, heads=8, kv_heads=4), TEXT, batch_size=8),
    "decoder, accumulated": case(
        _decoder(width=384, layers=4, heads=6, tied=False), TEXT, batch_size=16, accumulate=4, ema=0.99, clip_norm=1.0
    ),
    "decoder, activations computed again": case(
        _decoder(width=256, layers=8, heads=4), TEXT, batch_size=12, checkpoint_activations=True
    ),
    "decoder, two workers": case(_decoder(width=448, layers=5, heads=7), TEXT, world=2, batch_size=8),
}
SHARDED = case(_decoder(width=448, layers=5, heads=7), TEXT, world=2, batch_size=8, strategy="fsdp")


def objective_of(spec: TrainSpec, dataset: dict[str, Any], *, small: bool = False) -> Objective:
    """Return the objective on a dataset of such sizes; `small` has a model of next to nothing."""
    if small:
        changed = {**spec.architecture.arguments, **SMALL[spec.architecture.name]}
        changed.pop("kv_heads", None)
        spec = spec.model_copy(update={"architecture": spec.architecture.model_copy(update={"arguments": changed})})
    classes = tuple(map(str, range(dataset.get("classes", 0))))
    card = dataset_card(classes=classes)
    if "length" in dataset:
        tokens = TokenPreparation(
            column="tokens", length=dataset["length"], segments="segments", vocabulary=dataset["vocabulary"]
        )
        card = card.model_copy(update={"tokens": tokens})
    else:
        features = card.features.model_copy(update={"shape": tuple(dataset["features"])})
        card = card.model_copy(update={"features": features})
    return OBJECTIVES[spec.objective](card, spec.architecture)


def rows_of(objective: Objective, dataset: dict[str, Any], rows: int, *, small: bool = False) -> Batch:
    """Return rows by chance."""
    del objective, small
    if "length" in dataset:
        tokens = torch.randint(dataset["vocabulary"], (rows, dataset["length"]))
        return tokens, torch.ones_like(tokens)
    return torch.randn(rows, *dataset["features"]), torch.randint(dataset["classes"], (rows,))
