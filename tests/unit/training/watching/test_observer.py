"""One worker's measurements, with clocks that the test turns itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
import torch

from lightmill.models.architectures import seeded
from lightmill.training.objectives import Step
from lightmill.training.strategies import STRATEGIES, Setting, Strategy
from lightmill.training.team import Team
from lightmill.training.watching.observer import Observer
from lightmill.training.watching.parts import StepPart, Traced
from lightmill.training.weighing import cut, weighed
from tests.teams import spec_of
from tests.unit.training.strategies.cases import labelled

ROWS = 8


@dataclass
class Heard:
    """A `Tell` that keeps what it hears."""

    found: list[StepPart] = field(default_factory=list)
    traces: list[Traced] = field(default_factory=list)
    flushed: int = 0

    def parts(self, parts: list[StepPart]) -> None:
        self.found += parts

    def traced(self, traced: Traced) -> None:
        self.traces.append(traced)

    def flush(self) -> None:
        self.flushed += 1


class Clocks:
    """Wall and processor time, in seconds."""

    wall = 100.0
    used = 7.0

    def sleep(self, seconds: float) -> None:
        self.wall += seconds

    def compute(self, seconds: float) -> None:
        self.wall += seconds
        self.used += seconds


def strategy_of(steps: int, team: Team | None = None, **more: object) -> Strategy:
    case = labelled()
    team = team or Team.alone()
    spec = spec_of(case, **{"epochs": 2, "clip_norm": 1.0, **more})
    strategy = STRATEGIES["ddp"](Setting(spec=spec, team=team, objective=case.objective, epoch_steps=steps))
    strategy.prepare(seeded(1, case.objective.architecture))
    return strategy


def observed(strategy: Strategy, heard: Heard | None, clocks: Clocks) -> Observer:
    return Observer(strategy, heard, clock=lambda: clocks.wall, cpu=lambda: clocks.used)


def batches(clocks: Clocks, count: int, slow_s: float = 0.0) -> Iterator[tuple[torch.Tensor, ...]]:
    for _ in range(count):
        clocks.sleep(slow_s)
        yield (torch.zeros(ROWS, 1),)


def losses(*values: float) -> Sequence[Step]:
    return [Step(loss=torch.tensor(float(value), requires_grad=True), count=ROWS // len(values)) for value in values]


def test_a_point_is_the_mean_over_its_steps_with_the_time_that_went_into_waiting() -> None:
    clocks, heard = Clocks(), Heard()
    watch = observed(strategy_of(6, watch={"every_steps": 4}), heard, clocks)
    for epoch in range(2):
        for step, _ in enumerate(watch.feeding(batches(clocks, 6, slow_s=0.1))):
            clocks.compute(0.3)
            clocks.sleep(0.6)
            watch.stepped(epoch, step, 2 * ROWS, losses(step, step + 1.0))
        clocks.sleep(50)  # validation and a checkpoint
    watch.finish()
    assert [(p.step, p.epoch, p.steps, p.total) for p in heard.found] == [(4, 1, 4, 12), (8, 2, 4, 12), (12, 2, 4, 12)]
    first, second, _ = heard.found
    assert first.loss_sum / first.count == pytest.approx((0.5 + 1.5 + 2.5 + 3.5) / 4)
    assert second.loss_sum / second.count == pytest.approx((4.5 + 5.5 + 0.5 + 1.5) / 4), "a point may span epochs"
    for part in heard.found:
        assert part.seconds == pytest.approx(4.0) and part.rows == 4 * 2 * ROWS
        assert part.data_wait_s == pytest.approx(0.4)
        assert part.blocked_s == pytest.approx(2.4)
        assert part.memory_bytes > 50e6
    assert heard.flushed == 1


def test_an_epoch_says_how_fast_it_went_even_when_nobody_listens() -> None:
    clocks = Clocks()
    watch = observed(strategy_of(5), None, clocks)
    for step, _ in enumerate(watch.feeding(batches(clocks, 5, slow_s=0.25))):
        clocks.compute(0.5)
        clocks.sleep(0.25)
        watch.stepped(0, step, ROWS, losses(1.0))
    found = watch.epoch_metrics()
    assert found["rows_per_second"] == pytest.approx(ROWS)
    assert (found["data_wait_share"], found["communication_wait_share"]) == (0.25, 0.25)
    assert watch.epoch_metrics()["rows_per_second"] == 0.0
    watch.finish()


def test_the_last_steps_are_told_although_they_are_fewer() -> None:
    clocks, heard = Clocks(), Heard()
    watch = observed(strategy_of(5, epochs=1, watch={"every_steps": 3}), heard, clocks)
    for step, _ in enumerate(watch.feeding(batches(clocks, 5))):
        watch.stepped(0, step, ROWS, losses(1.0))
    watch.finish()
    assert [(p.step, p.steps) for p in heard.found] == [(3, 3), (5, 2)]


def test_messages_are_a_second_apart() -> None:
    clocks, heard = Clocks(), Heard()
    watch = observed(strategy_of(100, epochs=1, watch={"every_steps": 1}), heard, clocks)
    told = []
    for step, _ in enumerate(watch.feeding(batches(clocks, 10))):
        clocks.compute(0.3)
        watch.stepped(0, step, ROWS, losses(1.0))
        told.append(len(heard.found))
    assert told == [0, 0, 0, 4, 4, 4, 4, 8, 8, 8]


def test_real_steps_tell_learning_rate_and_norm_of_gradients() -> None:
    heard, case = Heard(), labelled()
    strategy = strategy_of(3, epochs=1, watch={"every_steps": 1}, learning_rate=0.25, clip_norm=0.5)
    watch = Observer(strategy, heard)
    found = []
    for step, batch in enumerate(watch.feeding(iter([case.rows] * 3))):
        rows = len(batch[0])
        counted = strategy.step(weighed(strategy, cut(batch, 2), rows))
        watch.stepped(0, step, rows, counted)
        found.append(sum(float(one.loss.detach()) * int(one.count) for one in counted) / rows)
    watch.finish()
    assert [p.loss_sum / p.count for p in heard.found] == pytest.approx(found)
    assert all(p.shown["learning_rate"] == 0.25 and p.shown["gradient_norm"] > 0 for p in heard.found)


def test_a_loss_that_is_no_number_is_left_out() -> None:
    heard = Heard()
    watch = Observer(strategy_of(2, epochs=1, watch={"every_steps": 1}), heard)
    for step, _ in enumerate(watch.feeding(batches(Clocks(), 2))):
        watch.stepped(0, step, ROWS, losses(math.nan if step else math.inf))
    watch.finish()
    assert [(p.loss_sum, p.count) for p in heard.found] == [(0.0, 0.0)] * 2


def test_the_first_worker_profiles_steps_after_the_first_ten() -> None:
    heard, case = Heard(), labelled()
    strategy = strategy_of(15, epochs=1, watch={"every_steps": 0, "profile_steps": 3})
    watch = Observer(strategy, heard)
    for step, batch in enumerate(watch.feeding(iter([case.rows] * 15))):
        counted = strategy.step(weighed(strategy, [batch], len(batch[0])))
        watch.stepped(0, step, len(batch[0]), counted)
    watch.finish()
    assert heard.found == []
    (traced,) = heard.traces
    assert "aten::" in traced.table and len(traced.trace) > 100


def test_without_steps_to_profile_or_watch_a_worker_beyond_the_first_is_silent() -> None:
    heard = Heard()
    team = Team(rank=1, world=1, device=torch.device("cpu"))
    watch = Observer(strategy_of(30, team, watch={"every_steps": 0, "profile_steps": 3}), heard)
    for step, _ in enumerate(watch.feeding(batches(Clocks(), 30))):
        watch.stepped(0, step, ROWS, losses(1.0))
    watch.finish()
    assert (heard.found, heard.traces) == ([], [])
