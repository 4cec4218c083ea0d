"""Servers that wait for all step as one process; others lose no update, and nobody runs ahead further than told."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lightmill.errors import RequestError
from lightmill.records.specs import TrainSpec
from lightmill.records.training import Consistency
from lightmill.training.objectives import Batch, CrossEntropy, Step
from lightmill.training.strategies import STRATEGIES, State, Strategy
from tests.teams import Case, same, spec_of, train_together
from tests.unit.training.strategies.cases import labelled, language

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"optimizer": "adamw", "learning_rate": 0.01, "clip_norm": 0.1, "l1": 0.001, "accumulate": 2},
    "averaged": {"schedule": {"name": "cosine", "warmup_steps": 3}, "ema": 0.9, "weight_decay": 0.1, "l1": 0.001},
}
SLOWER = 5


class Hindered(CrossEntropy):
    """The last worker sleeps in each step."""

    def step(self, module: nn.Module, batch: Batch) -> Step:
        if module.training:
            time.sleep(0.004 * (SLOWER if dist.get_rank() == dist.get_world_size() - 1 else 1))
        return super().step(module, batch)


def hindered() -> Case:
    case = labelled(96)
    case.objective.__class__ = Hindered
    return case


def server(consistency: Consistency, **more: Any) -> dict[str, Any]:
    return {"strategy": {"name": "parameter_server", "consistency": consistency, **more}}


def measured(strategy: Strategy) -> dict[str, float]:
    return strategy.measured()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("make", [labelled, language])
@pytest.mark.parametrize("more", OPTIONS.values(), ids=OPTIONS)
def test_servers_that_wait_for_all_step_as_one_process(
    make: Callable[[], Case], more: dict[str, Any], servers: int, world: int, tmp_path: Path
) -> None:
    together = train_together(make, world, tmp_path, measured, **more, **server("bsp", servers=servers))
    same(train_together(make, 1, tmp_path, **more), together)
    assert together.after[0]["staleness_max"] == together.after[0]["unseen_updates_max"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_no_worker_runs_further_ahead_than_told_of_a_slow_one(staleness: int, tmp_path: Path) -> None:
    found = train_together(
        hindered, 3, tmp_path, measured, **server("ssp", staleness=staleness, servers=2), batch_size=6
    )
    counts = found.after[0]
    assert counts["staleness_max"] <= staleness
    assert counts["staleness_max"] >= min(1, staleness), "the slow worker did not hold the others up"
    assert counts["server_updates"] == 3 * 2 * 16  # workers x epochs x steps: no push was lost


@pytest.mark.slow
def test_without_a_bound_nobody_waits_and_no_update_is_lost(tmp_path: Path) -> None:
    found = train_together(hindered, 3, tmp_path, measured, **server("asp"), batch_size=6)
    assert found.after[0]["server_updates"] == 3 * 2 * 16
    assert found.after[0]["staleness_max"] > 3
    assert found.losses[-1] < found.losses[0]


@pytest.mark.slow
def test_gradients_that_wait_at_the_servers_are_applied_when_an_epoch_ends(tmp_path: Path) -> None:
    found = train_together(labelled, 2, tmp_path, measured, **server("asp", accumulate=5))
    assert found.after[0]["server_updates"] == 2 * 3  # 14 pushes in each of two epochs


def resumed_with_three_servers(strategy: Strategy) -> tuple[State, State]:
    before = strategy.state()
    spec = strategy.setting.spec.model_copy(
        update={"strategy": strategy.setting.spec.strategy.model_copy(update={"servers": 3})}
    )
    again = STRATEGIES[spec.strategy.name](
        type(strategy.setting)(
            spec=spec,
            team=strategy.setting.team,
            objective=strategy.setting.objective,
            epoch_steps=strategy.setting.epoch_steps,
        )
    )
    from lightmill.models.architectures import seeded

    again.prepare(seeded(99, strategy.setting.objective.architecture))
    try:
        again.load_state(before)
        return before, again.state()
    finally:
        again.close()


@pytest.mark.slow
def test_a_state_goes_on_with_another_number_of_servers(tmp_path: Path) -> None:
    found = train_together(
        labelled,
        2,
        tmp_path,
        resumed_with_three_servers,
        **(OPTIONS["averaged"] | {"optimizer": "adamw", "learning_rate": 0.01}),
        **server("bsp", servers=2),
    )
    for before, after in found.after:
        assert int(before["updates"]) == 2 * 7
        equal(before, after)


def equal(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, dict):
            equal(value, other[key])
        elif isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (server("bsp", accumulate=2), "accumulate 2 is not for `consistency: bsp`"),
        (server("asp", servers=7), "servers 7 is more than the model's 6 trained parameters"),
        (server("asp") | {"precision": "fp16"}, "precision: bf16"),
        ({"strategy": {"name": "hybrid_sync", "group_size": 3}}, "group_size 3 does not divide 4 workers"),
    ],
)
def test_what_cannot_work_is_refused_before_workers_start(more: dict[str, Any], words: str) -> None:
    case = labelled()
    spec: TrainSpec = spec_of(case, workers=4, **more)
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 4))
    with pytest.raises(RequestError, match=words):
        STRATEGIES[spec.strategy.name].check(spec, module, 4)


def test_parameters_of_another_kind_are_refused() -> None:
    spec = spec_of(labelled(), **server("asp"))
    with pytest.raises(RequestError, match=r"'weight' is torch.bfloat16"):
        STRATEGIES["parameter_server"].check(spec, nn.Linear(2, 2, dtype=torch.bfloat16, device="meta"), 1)
