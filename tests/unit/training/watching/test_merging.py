from __future__ import annotations

import pytest

from lightmill.records.jobs import StepMetrics
from lightmill.training.watching.follower import Pace
from lightmill.training.watching.mailbox import PARTS_MAX, Mailbox
from lightmill.training.watching.merging import Merging
from lightmill.training.watching.parts import StepPart, Traced


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def part(rank: int, step: int = 10, **more: object) -> StepPart:
    base: dict[str, object] = {
        "rank": rank,
        "world": 2,
        "data_rank": rank,
        "data_world": 2,
        "epoch": 1,
        "step": step,
        "total": 40,
        "steps": 10,
        "seconds": 2.0,
        "rows": 640,
        "loss_sum": 32.0 * (rank + 1),
        "count": 32.0,
        "tokens": False,
        "data_wait_s": 0.2 + 0.4 * rank,
        "blocked_s": 0.5 - 0.1 * rank,
        "memory_bytes": 100 + rank,
        "shown": {} if rank else {"learning_rate": 0.1},
    }
    return StepPart.model_validate(base | more)


def test_a_point_is_over_all_workers_and_waits_for_them() -> None:
    merging = Merging("r", clock=Clock())
    merging.add([part(1), part(1, 20)])
    assert merging.take() == []
    merging.add([part(0)])
    (found,) = merging.take()
    assert (found.run, found.step, found.epoch) == ("r", 10, 1)
    assert found.metrics == pytest.approx(
        {
            "loss": 1.5,
            "learning_rate": 0.1,
            "steps_per_second": 5.0,
            "rows_per_second": 320.0,
            "data_wait_share": 0.2,
            "communication_wait_share": 0.225,
            "memory_bytes": 101.0,
        }
    )
    assert merging.take() == [] and merging.total == 40


def test_a_mean_weighs_by_what_was_counted_and_takes_each_data_rank_once() -> None:
    merging = Merging("r")
    split = {"world": 4, "data_world": 2, "tokens": True}
    merging.add(
        [
            part(0, data_rank=0, loss_sum=0.0, count=0.0, **split),  # the first stage of a pipeline knows no loss
            part(1, data_rank=0, loss_sum=30.0, count=10.0, **split),
            part(2, data_rank=1, loss_sum=30.0, count=30.0, **split),
            part(3, data_rank=1, loss_sum=30.0, count=30.0, **split),
        ]
    )
    (found,) = merging.take()
    assert found.metrics["loss"] == 1.5
    assert found.metrics["tokens_per_second"] == 20.0


def test_a_worker_that_is_far_behind_is_not_waited_for_and_told_of_no_more() -> None:
    clock = Clock()
    merging = Merging("r", patience_s=5.0, clock=clock)
    merging.add([part(0), part(0, 20), part(1, 20)])
    assert [point.step for point in merging.take()] == [20]
    clock.now = 5.1
    (late,) = merging.take()
    assert (late.step, late.metrics["loss"]) == (10, 1.0)
    merging.add([part(1)])
    clock.now = 11.0
    assert merging.take() == [], "a point that was given is not given again without the leader"


def test_steps_that_are_done_again_are_given_again() -> None:
    merging = Merging("r")
    merging.add([part(0), part(1)])
    assert len(merging.take()) == 1
    merging.add([part(0, loss_sum=320.0), part(1, loss_sum=320.0)])
    assert [point.metrics["loss"] for point in merging.take()] == [10.0]


def test_at_the_end_everything_that_the_leader_told_is_given() -> None:
    merging = Merging("r")
    merging.add([part(0, 20), part(1, 30), part(0, 10)])
    assert [point.step for point in merging.take(everything=True)] == [10, 20]


def test_nothing_is_told_of_waiting_where_it_cannot_be_measured() -> None:
    merging = Merging("r")
    merging.add([part(0, blocked_s=None, world=1)])
    assert "communication_wait_share" not in merging.take()[0].metrics


def test_a_mailbox_gives_what_it_holds_once_and_is_bounded() -> None:
    mailbox = Mailbox()
    mailbox.put([part(0), part(1)])
    mailbox.put_traced(Traced(table="t", trace=b"x"))
    assert mailbox.take() == ([part(0), part(1)], Traced(table="t", trace=b"x"))
    assert mailbox.take() == ([], None)
    mailbox.put([part(0)] * (PARTS_MAX + 1))
    assert len(mailbox.take()[0]) == PARTS_MAX


def test_the_time_that_is_left_follows_from_the_pace_so_far() -> None:
    clock = Clock()
    pace = Pace(clock)

    def at(step: int, seconds: float) -> tuple[float | None, float | None]:
        clock.now = seconds
        found = pace.progress(StepMetrics(run="r", step=step, epoch=1, metrics={"loss": 2.0}, created=""), 100)
        assert (found.done, found.total, found.unit, found.metrics) == (step, 100, "steps", {"loss": 2.0})
        return found.rate, found.eta_s

    assert at(10, 5.0) == (None, None)
    assert at(50, 25.0) == (2.0, 25.0)
    assert at(5, 30.0) == (None, None), "a run that fell back is measured anew"
    assert at(15, 40.0) == (1.0, 85.0)
