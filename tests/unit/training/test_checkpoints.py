"""Sealed states: what is restored trains on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightmill.models.architectures import seeded
from lightmill.records.assets import Provenance, RunCard
from lightmill.records.references import AssetKind
from lightmill.records.training import CheckpointSpec
from lightmill.registry import RegistryLocation
from lightmill.training.checkpoints import Position, Run, Sealer, load_model_state, load_state
from lightmill.training.strategies import Ddp, Setting
from lightmill.training.team import Team
from lightmill.training.weighing import weighed
from tests.teams import spec_of
from tests.unit.registry.world import World
from tests.unit.training.strategies.cases import labelled

CASE = labelled()


def run_of(location: RegistryLocation, **more: Any) -> Run:
    return Run(
        location=location, name="run-1", model="m", provenance=Provenance(run="run-1"), spec=CheckpointSpec(**more)
    )


def strategy(seed: int = 1, **more: Any) -> Ddp:
    spec = spec_of(CASE, **({"optimizer": "adamw", "weight_decay": 0.1} | more))
    made = Ddp(Setting(spec=spec, team=Team.alone(), objective=CASE.objective, epoch_steps=10))
    made.prepare(seeded(seed, CASE.objective.architecture))
    return made


def go_on(one: Ddp, steps: int) -> None:
    for step in range(steps):
        batch = tuple(tensor[step * 5 : step * 5 + 5] for tensor in CASE.rows)
        one.step(weighed(one, [batch], 5))


def same_weights(one: Ddp, other: Ddp) -> bool:
    states = one.weights(), other.weights()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.parametrize("steps", [0, 5])
@pytest.mark.parametrize("more", [{}, {"ema": 0.9}, {"optimizer": {"name": "sgd", "arguments": {"momentum": 0.9}}}])
def test_what_was_sealed_trains_on_the_same_in_another_process(
    tmp_path: Path, steps: int, more: dict[str, Any]
) -> None:
    world = World(tmp_path)
    location = RegistryLocation(store_url=str(world.root), keyring_path=str(world.ring.path), workspace="default")
    one, other = strategy(**more), strategy(seed=2, **more)
    go_on(one, steps)
    totals = torch.tensor([1.5, 2.0], dtype=torch.float64)
    position = Position(epoch=3, step=2)
    sealer = Sealer(run_of(location), Team.alone())
    sealer.seal(one.state(), position, {"loss": 0.5}, totals)
    go_on(one, 0)
    sealer.finish()
    id = sealer.last
    assert id is not None and (id.kind, id.name, id.seq) == (AssetKind.RUN, "run-1", 1)

    version = world.new_registry().open(id)
    assert version.manifest.run == RunCard(model="m", epoch=3, step=2, metrics={"loss": 0.5})
    loaded = load_state(version, other.state())
    assert loaded.position == position
    assert loaded.totals is not None and torch.equal(loaded.totals, totals)
    assert not same_weights(one, other)
    other.load_state(loaded.state)
    assert same_weights(one, other)
    go_on(one, 4)
    go_on(other, 4)
    assert same_weights(one, other)


def test_a_model_is_read_with_its_averaged_weights(tmp_path: Path) -> None:
    world = World(tmp_path)
    location = RegistryLocation(store_url=str(world.root), keyring_path=str(world.ring.path), workspace="default")
    one = strategy(ema=0.5)
    go_on(one, 3)
    sealer = Sealer(run_of(location), Team.alone())
    sealer.seal(one.state(), Position(epoch=1, step=0), {}, None)
    expected = one.weights()
    go_on(one, 2)
    sealer.finish()
    assert sealer.last is not None
    found = load_model_state(world.new_registry().open(sealer.last))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    plain = {name: value.clone() for name, value in one.module.state_dict().items()}
    assert any(not torch.equal(found[name], plain[name]) for name in plain)
