"""Gossip: two workers that average after every step of SGD from equal rows step as one; more of them draw together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from lightmill.training.strategies import Strategy
from lightmill.training.strategies.ring import Ring
from tests.teams import Case, same, train_together
from tests.unit.training.strategies.cases import labelled
from tests.unit.training.strategies.test_local_sgd import resumed
from tests.unit.training.strategies.test_parameter_server import equal

pytestmark = pytest.mark.slow
RING: dict[str, Any] = {"strategy": "ring"}
ADAM: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 0.01}


def whole_steps() -> Case:
    return labelled(48)


def test_two_workers_that_average_after_every_step_of_sgd_are_data_parallel(tmp_path: Path) -> None:
    # p - rate x g1 and p - rate x g2 average to p - rate x mean(g1, g2), and both workers have as many rows.
    same(train_together(whole_steps, 1, tmp_path), train_together(whole_steps, 2, tmp_path, **RING))


def gossiped(strategy: Strategy) -> tuple[list[float], float]:
    """Set each worker's parameters to its rank, and pass them on a few times."""
    assert isinstance(strategy, Ring)
    rank = dist.get_rank()
    with torch.no_grad():
        for parameter in strategy.module.parameters():
            parameter.fill_(float(rank))
    seen = []
    first = next(iter(strategy.module.parameters()))
    for _ in range(6):
        strategy._gossip()
        seen.append(float(first.detach().flatten()[0]))
    strategy._since = 1
    strategy.end_epoch()
    return seen, float(first.detach().flatten()[0])


def test_each_worker_takes_the_mean_with_the_one_before_it_and_the_mean_of_all_stays(tmp_path: Path) -> None:
    found = train_together(whole_steps, 4, tmp_path, gossiped, **RING).after
    values = torch.arange(4.0)
    for turn in range(6):
        values = (values + values.roll(1)) / 2
        seen = torch.tensor([one[0][turn] for one in found])
        torch.testing.assert_close(seen, values)
        assert float(seen.mean()) == pytest.approx(1.5)
    assert float(values.max() - values.min()) < 0.5
    assert [one[1] for one in found] == pytest.approx([1.5] * 4)


def test_all_have_one_model_when_an_epoch_ends_and_go_on_from_its_state(tmp_path: Path) -> None:
    found = train_together(
        labelled,
        4,
        tmp_path,
        resumed,
        optimizer="adamw",
        learning_rate=0.01,
        strategy={"name": "ring", "every_steps": 2},
    )
    assert found.losses[-1] < found.losses[0]
    for before, after in found.after:
        equal(before, after)
        equal(before, found.after[0][0])  # the optimizer's state is the leader's
