"""Publishes the peers' networks in a platform's registry, as their trainings would. Run: serving_models.py NAME ...

Each name is a network; a further run publishes a further version. The alias `champion` follows. One JSON line each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.peers import networks
from benchmarks.sealed_models import publish
from lightmill.models.answers import classifying, feature_inputs, regressing, token_inputs
from lightmill.records.assets import ModelCard
from lightmill.records.fitted import TokenPreparation
from lightmill.records.references import AssetKind
from lightmill.records.signature import Architecture, Preprocessing, Signature, TensorSpec
from lightmill.settings import Settings
from lightmill.wiring import open_platform

CLASSES = tuple(str(n) for n in range(10))
LARGE = [4096, 4096, 1024, 4096]
"""Hidden layers of the model that cold starts load: 64 -> 4096 -> 4096 -> 1024 -> 4096 -> 10 in float32, 102 MB."""


def _card(architecture: Architecture, signature: Signature, **more: Any) -> ModelCard:
    fields = {"preprocessing": Preprocessing(), "classes": CLASSES, "metrics": {}} | more
    return ModelCard(architecture=architecture, signature=signature, **fields)


def _features(width: int) -> TensorSpec:
    return TensorSpec(name="x", datatype="FP32", shape=(width,))


def _linear(inputs: int, weight: float) -> nn.Module:
    layer = nn.Linear(inputs, 1)
    nn.init.constant_(layer.weight, weight)
    nn.init.zeros_(layer.bias)
    return layer


def _mlp() -> tuple[ModelCard, nn.Module]:
    architecture = Architecture(name="mlp", arguments={"inputs": 64, "classes": 10, "hidden": [256]})
    return _card(architecture, classifying(feature_inputs(_features(64)), 10)), networks.mlp()


def _large() -> tuple[ModelCard, nn.Module]:
    layers: list[nn.Module] = []
    width = 64
    for units in LARGE:
        layers += [nn.Linear(width, units), nn.ReLU()]
        width = units
    architecture = Architecture(name="mlp", arguments={"inputs": 64, "classes": 10, "hidden": LARGE})
    module = nn.Sequential(*layers, nn.Linear(width, 10))
    return _card(architecture, classifying(feature_inputs(_features(64)), 10)), module


def _encoder() -> tuple[ModelCard, nn.Module]:
    card = _card(
        Architecture(name="encoder", arguments=networks.ENCODER),
        classifying(token_inputs("x"), 10),
        tokens=TokenPreparation(column="x", length=networks.TOKENS),
    )
    return card, networks.text_encoder()


def _means() -> tuple[ModelCard, nn.Module]:
    """Return the means of rows as a regression: weights of 1 / SIDE."""
    side = networks.SIDE
    architecture = Architecture(name="logistic", arguments={"inputs": side, "classes": 1})
    return _card(architecture, regressing(feature_inputs(_features(side))), classes=()), _linear(side, 1 / side)


def _echo() -> tuple[ModelCard, nn.Module]:
    """Return what answers the number that it is given."""
    architecture = Architecture(name="logistic", arguments={"inputs": 1, "classes": 1})
    return _card(architecture, regressing(feature_inputs(_features(1))), classes=()), _linear(1, 1.0)


NETWORKS: dict[str, Callable[[], tuple[ModelCard, nn.Module]]] = {
    "echo": _echo,
    "mlp": _mlp,
    "encoder": _encoder,
    "means": _means,
    "large": _large,
}


def main() -> None:
    """Publish networks by name."""
    registry = open_platform(Settings.read()).registry
    for name in sys.argv[1:]:
        card, module = NETWORKS[name]()
        state: dict[str, torch.Tensor] = dict(module.state_dict())
        id = publish(registry, state, name, card)
        registry.set_alias(AssetKind.MODEL, name, "champion", id.seq)
        size = sum(value.nbytes for value in state.values())
        sys.stdout.write(json.dumps({"model": name, "version": id.seq, "bytes": size}) + "\n")


if __name__ == "__main__":
    main()
