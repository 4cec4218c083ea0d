"""Publishing a model: the next version shares what did not change, without being asked to."""

from __future__ import annotations

from pathlib import Path

import torch

from lightmill.records.assets import Provenance
from lightmill.registry.tensors import load_tensors
from lightmill.training.register import publish_model
from tests.unit.registry.world import World, card


def test_the_next_version_of_a_model_shares_the_layers_that_did_not_change(tmp_path: Path) -> None:
    world = World(tmp_path)
    state = {f"layers.{n}.weight": torch.rand(300, 1000) for n in range(5)}
    first = publish_model(world.registry, "m", state, card(), Provenance())
    changed = state | {"layers.2.weight": state["layers.2.weight"] * 2}
    second = publish_model(world.registry, "m", changed, card(), Provenance())
    assert len(world.names("b/")) == 6
    for summary, expected in ((first, state), (second, changed)):
        found = load_tensors(world.registry.open(summary.id))
        assert all(torch.equal(found[name], value) for name, value in expected.items())
