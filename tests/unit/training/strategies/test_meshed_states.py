"""What workers with parts of a model keep: how much of it, and that others can go on from it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from lightmill.training.strategies import Strategy
from lightmill.training.strategies.meshed import Meshed
from lightmill.training.weighing import weighed
from tests.teams import same, train_together
from tests.unit.training.strategies.cases import labelled, untied, worded

ADAMW: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 0.01, "clip_norm": 0.1, "ema": 0.9, "epochs": 1}


def test_two_workers_with_half_of_the_parameters_step_as_one(tmp_path: Path) -> None:
    same(train_together(labelled, 1, tmp_path), train_together(labelled, 2, tmp_path, strategy="fsdp"))


def went_on(strategy: Strategy, *, folder: Path, begins: bool) -> dict[str, torch.Tensor]:
    """Save, or load what was saved; then one more step."""
    if begins:
        save(strategy.state(), checkpoint_id=folder)
    else:
        state = strategy.state()
        load(state, checkpoint_id=folder)
        strategy.load_state(state)
    rows = tuple(tensor[:8] for tensor in worded().rows)
    mine = tuple(tensor[strategy.data_rank :: strategy.data_world] for tensor in rows)
    strategy.step(weighed(strategy, [mine], 8))
    return strategy.weights()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"name": "fsdp"}, {"name": "fsdp"}),
        ({"name": "tensor"}, {"name": "tensor"}),
        ({"name": "pipeline", "microbatches": 4}, {"name": "pipeline", "microbatches": 2}),
        ({"name": "hybrid", "pipeline": 2, "tensor": 2, "microbatches": 2}, {"name": "fsdp"}),
        ({"name": "hybrid", "tensor": 2, "shard": True}, {"name": "pipeline", "microbatches": 2}),
        ({"name": "context"}, {"name": "tensor"}),
    ],
    ids=["fsdp", "tensor", "pipeline", "hybrid-fsdp", "shard-pipeline", "context-tensor"],
)
def test_two_workers_go_on_from_what_four_saved(before: dict[str, Any], after: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    go = partial(went_on, folder=folder)
    four = train_together(worded, 4, tmp_path, partial(go, begins=True), **ADAMW, strategy=before)
    two = train_together(worded, 2, tmp_path, partial(go, begins=False), **ADAMW | {"seed": 9}, strategy=after)
    assert four.after[0].keys() == two.after[0].keys() == four.weights.keys()
    for name, value in four.after[0].items():
        torch.testing.assert_close(two.after[0][name], value, rtol=1e-4, atol=2e-5)
        assert not torch.equal(value, four.weights[name])


def kept(strategy: Strategy) -> tuple[int, int]:
    """Return the bytes of parameters and of the optimizer's state that a worker has."""
    assert isinstance(strategy, Meshed)

    def size(value: Any) -> int:
        found = value.to_local() if isinstance(value, DTensor) else value
        return found.nbytes if isinstance(found, torch.Tensor) else 0

    states = strategy.updater.optimizer.state.values()
    return sum(map(size, strategy.module.parameters())), sum(size(v) for one in states for v in one.values())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [{"name": "fsdp"}, {"name": "hybrid", "tensor": 2, "shard": True}], ids=str)
def test_four_workers_have_a_quarter_of_the_parameters_and_of_the_optimizer(
    strategy: dict[str, Any], tmp_path: Path
) -> None:
    found = train_together(untied, 4, tmp_path, kept, **ADAMW, strategy=strategy)
    whole = sum(value.nbytes for value in found.weights.values())
    norms = sum(value.nbytes for value in found.weights.values() if value.ndim == 1)  # on both halves of tensor
    for parameters, optimizer in found.after:
        assert whole / 4 <= parameters <= whole / 4 + norms
        assert whole / 2 <= optimizer <= whole / 2 + 2 * norms + 1024  # and a counter of steps for each parameter


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "fsdp"},
        {"name": "tensor"},
        {"name": "pipeline", "microbatches": 2},
        {"name": "context"},
    ],
    ids=lambda one: one["name"],
)
def test_mixed_precision_comes_close(strategy: dict[str, Any], tmp_path: Path) -> None:
    alone = train_together(worded, 1, tmp_path, precision="bf16")
    together = train_together(worded, 2, tmp_path, precision="bf16", strategy=strategy)
    torch.testing.assert_close(torch.tensor(together.losses), torch.tensor(alone.losses), rtol=1e-2, atol=0)
