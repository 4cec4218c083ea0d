"""Workers seal their parts of one checkpoint, and another number of workers goes on from it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lightmill.records.assets import Provenance
from lightmill.records.references import VersionId
from lightmill.records.training import CheckpointSpec
from lightmill.registry import RegistryLocation
from lightmill.training.checkpoints import Position, Run, Sealer, load_model_state, load_state
from lightmill.training.strategies import Strategy
from tests.teams import train_together
from tests.unit.registry.world import World
from tests.unit.training.strategies.cases import language

pytestmark = pytest.mark.slow


def seal_it(location: RegistryLocation, strategy: Strategy) -> tuple[VersionId | None, dict[str, torch.Tensor]]:
    """Seal two checkpoints, one on the heels of the other; return the last, as every worker knows it."""
    run = Run(location=location, name="r", model="m", provenance=Provenance(run="r"), spec=CheckpointSpec())
    sealer = Sealer(run, strategy.setting.team)
    totals = torch.ones(2, dtype=torch.float64)
    for step in (3, 5):
        sealer.seal(strategy.state(), Position(epoch=1, step=step), {}, totals)
    sealer.finish()
    return sealer.last, strategy.weights()


def load_it(location: RegistryLocation, id: VersionId, strategy: Strategy) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    loaded = load_state(location.open().open(id), strategy.state())
    strategy.load_state(loaded.state)
    return loaded.position, loaded.totals, strategy.weights()


FSDP = {"name": "fsdp"}
TENSOR = {"name": "tensor", "size": 2}
PIPELINE = {"name": "pipeline", "stages": 2, "microbatches": 2}


@pytest.mark.parametrize(
    ("strategy", "before", "after"),
    [
        ({"name": "ddp"}, 2, 1),
        ({"name": "ddp"}, 1, 2),
        (FSDP, 2, 1),
        (FSDP, 2, 4),
        (FSDP, 4, 2),
        (TENSOR, 2, 4),
        (TENSOR, 4, 2),
        (PIPELINE, 2, 4),
        (PIPELINE, 4, 2),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else str(value),
)
def test_another_number_of_workers_goes_on(strategy: dict[str, Any], before: int, after: int, tmp_path: Path) -> None:
    world = World(tmp_path)
    location = RegistryLocation(store_url=str(world.root), keyring_path=str(world.ring.path), workspace="default")
    more: dict[str, Any] = {"optimizer": "adamw", "epochs": 1}
    sealed = train_together(language, before, tmp_path, partial(seal_it, location), strategy=strategy, **more)
    assert {str(id) for id, _ in sealed.after} == {"r@2"}
    id, weights = sealed.after[0]
    assert id is not None
    version = world.new_registry().open(id)
    whole = load_model_state(version)
    assert whole.keys() >= weights.keys()
    assert all(torch.equal(whole[key], weights[key]) for key in weights)

    found = train_together(language, after, tmp_path, partial(load_it, location, id), strategy=strategy, seed=9, **more)
    position, totals, again = found.after[0]
    assert position == Position(epoch=1, step=5) and totals.tolist() == [1.0, 1.0]
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[key], weights[key]) for key in weights)


def hold_it(location: RegistryLocation, strategy: Strategy) -> list[tuple[int, int]]:
    """Hold states, each better than the one before, while a checkpoint is on its way; return what was sealed."""
    run = Run(
        location=location, name="h", model="m", provenance=Provenance(run="h"), spec=CheckpointSpec(keep_last=100)
    )
    team = strategy.setting.team
    sealed: list[VersionId] = []
    sealer = Sealer(run, team, sealed.append)
    for rounds in range(3):
        first = 100 * rounds
        sealer.seal(strategy.state(), Position(epoch=first, step=0), {"validation_loss": 1000.0 - first}, None)
        for epoch in range(first + 1, first + 20):
            sealer.hold(strategy.state(), Position(epoch=epoch, step=0), {"validation_loss": 1000.0 - epoch})
    sealer.seal(strategy.state(), Position(epoch=300, step=0), {"validation_loss": 5000.0}, None)
    sealer.finish()
    cards = [location.open().open(id).manifest.run for id in sealed]
    return [(id.seq, card.epoch) for id, card in zip(sealed, cards, strict=True) if card]


def test_states_are_held_while_a_checkpoint_is_on_its_way(tmp_path: Path) -> None:
    """Two threads of a worker exchange with the other workers then, each over a group of its own."""
    world = World(tmp_path)
    location = RegistryLocation(store_url=str(world.root), keyring_path=str(world.ring.path), workspace="default")
    found = train_together(language, 2, tmp_path, partial(hold_it, location), epochs=1, optimizer="adamw")
    leader, other = found.after
    assert leader == [(1, 0), (2, 100), (3, 200), (4, 219), (5, 300)]
    assert other == []
