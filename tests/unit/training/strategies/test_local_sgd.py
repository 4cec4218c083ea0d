"""Local steps and averaging: with rounds of one step it is data parallelism, and a round's end follows the paper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightmill.models.architectures import seeded
from lightmill.training.strategies import STRATEGIES, Setting, State, Strategy
from lightmill.training.team import Team
from lightmill.training.weighing import cut, weighed
from tests.teams import Case, same, spec_of, train_together
from tests.unit.training.strategies.cases import labelled, language
from tests.unit.training.strategies.test_parameter_server import equal


def rounds(steps: int, **outer: Any) -> dict[str, Any]:
    return {"strategy": {"name": "local_sgd", "local_steps": steps, "outer": outer}}


AVERAGING = {"learning_rate": 1.0, "momentum": 0.0, "nesterov": False}


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("make", [labelled, language])
def test_averaging_after_every_step_of_sgd_is_data_parallelism(
    make: Callable[[], Case], world: int, tmp_path: Path
) -> None:
    same(
        train_together(make, world, tmp_path, strategy="ddp"),
        train_together(make, world, tmp_path, **rounds(1, **AVERAGING)),
    )


def lone(spec_more: dict[str, Any]) -> tuple[Strategy, Case]:
    case = labelled(32)
    spec = spec_of(case, **spec_more)
    strategy = STRATEGIES["local_sgd"](Setting(spec=spec, team=Team.alone(), objective=case.objective, epoch_steps=4))
    strategy.prepare(seeded(spec.seed, case.objective.architecture))
    return strategy, case


def test_the_outer_optimizer_is_torchs_sgd_with_nesterov_momentum() -> None:
    strategy, case = lone(rounds(2, learning_rate=0.7, momentum=0.9))
    inner, _ = lone({"strategy": {"name": "local_sgd", "local_steps": 100}})
    outer = {name: torch.nn.Parameter(value.clone()) for name, value in strategy.weights().items()}
    peer = torch.optim.SGD(outer.values(), lr=0.7, momentum=0.9, nesterov=True)
    for _ in range(3):
        for some in cut(case.rows, 2):
            strategy.step(weighed(strategy, [some], 16))
            inner.step(weighed(inner, [some], 16))
        moved = inner.weights()
        for name, parameter in outer.items():
            parameter.grad = parameter.detach() - moved[name]
        peer.step()
        for name, value in strategy.weights().items():
            torch.testing.assert_close(value, outer[name].detach())
        state = inner.state()
        state["model"] = {name: parameter.detach().clone() for name, parameter in outer.items()}
        inner.load_state(state)


def resumed(strategy: Strategy) -> tuple[State, State]:
    before = strategy.state()
    setting = strategy.setting
    again = STRATEGIES[setting.spec.strategy.name](setting)
    again.prepare(seeded(99, setting.objective.architecture))
    again.load_state(before)
    return before, again.state()


@pytest.mark.slow
def test_workers_agree_when_an_epoch_ends_and_go_on_from_its_state(tmp_path: Path) -> None:
    found = train_together(labelled, 2, tmp_path, resumed, optimizer="adamw", learning_rate=0.01, ema=0.9, **rounds(3))
    assert found.losses[-1] < found.losses[0]
    for before, after in found.after:
        equal(before, after)
        equal(before, found.after[0][0])  # the optimizer's state is the leader's
