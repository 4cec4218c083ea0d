"""What waits: room, classes, deadlines, waits that adapt, phases. Time is stepped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lightmill.errors import DeadlineError, TooBusyError, UnavailableError
from lightmill.models.answers import Values
from lightmill.records.batching import BatchingSpec, Priority
from lightmill.serving.arrivals import ArrivalGaps, closes_at
from lightmill.serving.batcher import Batcher, batcher_of
from lightmill.serving.phases import BatchReport, Phases
from lightmill.serving.waiting import QueueLimits
from tests.unit.serving.stepping import ByHand, SteppedLoop


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    stepped = SteppedLoop()
    yield stepped
    stepped.close()


class Model:
    """Answers each row with itself, and keeps what it was asked, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, features: Any) -> Values:
        self.batches.append(features[:, 0].astype(int).tolist())
        return Values(value=features[:, 0].astype(np.float32))


def rows(*values: float, width: int = 1) -> Any:
    return np.repeat(np.array(values, dtype=np.float32)[:, None], width, axis=1)


def busy(loop: SteppedLoop, **options: Any) -> tuple[Batcher, Model, ByHand]:
    """A batcher that computes row 0, until the hand steps."""
    model, hand = Model(), ByHand()
    limits = QueueLimits(max_rows=4, **options)
    found = Batcher(model, max_rows=4, max_wait_s=0, inline=False, limits=limits, executor=hand)
    loop.start(found.predict(rows(0)))
    assert (found.waiting_requests, len(hand.waiting)) == (0, 1)
    return found, model, hand


def run_out(loop: SteppedLoop, hand: ByHand) -> None:
    while hand.waiting:
        hand.step()
        loop.settle()


def test_a_full_queue_refuses_with_a_time_to_come_again(loop: SteppedLoop) -> None:
    batcher, _, hand = busy(loop, max_queue_requests=2)
    high: list[Any] = [loop.start(batcher.predict(rows(n), priority="high")) for n in (1, 2)]
    refused = loop.start(batcher.predict(rows(3), priority="high"))
    with pytest.raises(TooBusyError, match=r"2 requests with 2 rows wait already, and this one has 1; .* holds 2"):
        refused.result()
    problem = refused.exception()
    assert isinstance(problem, TooBusyError) and 0 < problem.retry_after_s <= 60
    run_out(loop, hand)
    assert [task.result().value.tolist() for task in high] == [[1], [2]]
    loop.start(batcher.predict(rows(4)))
    assert len(hand.waiting) == 1


def test_rows_that_wait_are_bounded_but_an_empty_queue_takes_any_request(loop: SteppedLoop) -> None:
    batcher, model, hand = busy(loop, max_queue_rows=6)
    large = loop.start(batcher.predict(rows(*range(1, 9)), priority="high"))
    assert not large.done() and batcher.waiting_rows == 8
    with pytest.raises(TooBusyError, match="8 rows wait already"):
        loop.start(batcher.predict(rows(9), priority="high")).result()
    run_out(loop, hand)
    assert large.result().value.tolist() == list(range(1, 9))
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8]]


def test_lower_classes_find_the_queue_full_before_higher_ones(loop: SteppedLoop) -> None:
    batcher, _, _ = busy(loop, max_queue_requests=10)
    counts = {}
    for priority in ("low", "normal", "high"):
        while not (sent := loop.start(batcher.predict(rows(1), priority=priority))).done():
            pass
        assert isinstance(sent.exception(), TooBusyError)
        counts[priority] = batcher.waiting_requests
    assert counts == {"low": 5, "normal": 9, "high": 10}


def test_who_is_cancelled_frees_the_place_at_once_in_rows_too(loop: SteppedLoop) -> None:
    batcher, model, hand = busy(loop, max_queue_requests=2, max_queue_rows=5)
    gone = loop.start(batcher.predict(rows(1, 1, 1, 1, 1), priority="high"))
    assert batcher.waiting_rows == 5
    gone.cancel()
    loop.settle()
    assert (batcher.waiting_requests, batcher.waiting_rows) == (0, 0)
    stays = loop.start(batcher.predict(rows(2, 2, 2), priority="high"))
    run_out(loop, hand)
    assert gone.cancelled() and stays.result().value.tolist() == [2, 2, 2]
    assert model.batches == [[0], [2, 2, 2]]


def test_many_who_come_and_leave_while_a_batch_is_long_leave_nothing_behind(loop: SteppedLoop) -> None:
    batcher, _, _ = busy(loop)
    for _ in range(500):
        loop.start(batcher.predict(rows(1))).cancel()
        loop.settle()
    assert len(batcher._line._line) <= 65


def order(loop: SteppedLoop, sent: list[tuple[float, Priority]]) -> list[int]:
    """The order in which requests are computed that come at these times."""
    batcher, model, hand = busy(loop, ageing_s=1.0)
    begun = loop.time()
    for number, (at_s, priority) in enumerate(sent, start=1):
        loop.advance(begun + at_s - loop.time())
        loop.start(batcher.predict(rows(*[number] * 4), priority=priority))
    run_out(loop, hand)
    return [batch[0] for batch in model.batches[1:]]


def test_higher_classes_go_first_and_age_lets_nobody_wait_for_ever(loop: SteppedLoop) -> None:
    assert order(loop, [(0, "low"), (0.1, "normal"), (0.2, "high")]) == [3, 2, 1]
    # Low goes as though it came two seconds later: before what comes after that, whatever its class.
    assert order(loop, [(0, "low"), (1.9, "high"), (2.1, "high"), (2.2, "normal")]) == [2, 1, 3, 4]
    assert order(loop, [(0, "normal"), (0.1, "normal")]) == [1, 2]


def test_a_large_request_lets_small_ones_between_its_pieces(loop: SteppedLoop) -> None:
    batcher, model, hand = busy(loop)
    large = loop.start(batcher.predict(rows(*range(10, 20))))
    loop.advance(0.1)
    small = loop.start(batcher.predict(rows(1)))
    loop.advance(0.1)
    hand.step()
    loop.advance(0.1)
    run_out(loop, hand)
    assert model.batches == [[0], [10, 11, 12, 13], [1], [14, 15, 16, 17], [18, 19]]
    assert small.result().value.tolist() == [1]
    assert large.result().value.tolist() == list(range(10, 20))


def test_bytes_end_a_batch(loop: SteppedLoop) -> None:
    model, hand = Model(), ByHand()
    limits = QueueLimits(max_rows=100, max_bytes=40)
    batcher = Batcher(model, max_rows=100, max_wait_s=60, inline=False, limits=limits, executor=hand)
    tasks: list[Any] = [loop.start(batcher.predict(rows(n, n, width=2))) for n in range(3)]
    assert len(hand.waiting) == 1, "bytes make a batch full, before its time"
    run_out(loop, hand)
    loop.advance(60)
    run_out(loop, hand)
    assert model.batches == [[0, 0, 1, 1], [2, 2]]
    assert all(task.done() for task in tasks)


def test_a_deadline_is_kept_in_the_queue_and_in_computation(loop: SteppedLoop) -> None:
    model, hand = Model(), ByHand()
    batcher = Batcher(model, max_rows=4, max_wait_s=0, inline=False, timeout_s=1.0, executor=hand)
    computed = loop.start(batcher.predict(rows(1)))
    waits = loop.start(batcher.predict(rows(2), deadline=loop.time() + 0.5))
    later = loop.start(batcher.predict(rows(3), deadline=loop.time() + 9))
    loop.advance(0.49)
    assert not waits.done()
    loop.advance(0.02)
    with pytest.raises(DeadlineError, match=r"No answer within 0\.5 s.*Ask again later"):
        waits.result()
    assert batcher.waiting_rows == 1
    loop.advance(0.5)
    assert isinstance(computed.exception(), DeadlineError)
    run_out(loop, hand)
    assert later.result().value.tolist() == [3]
    assert model.batches == [[1], [3]]


def test_a_deadline_that_has_passed_is_refused_at_once(loop: SteppedLoop) -> None:
    batcher, _, _ = busy(loop)
    with pytest.raises(DeadlineError, match="has passed already"):
        loop.start(batcher.predict(rows(1), deadline=loop.time())).result()
    assert batcher.waiting_requests == 0


@pytest.mark.parametrize(
    ("first_s", "last_s", "gap_s", "closes_s"),
    [
        (0, 0, 0.02, 0),  # the next is not likely to come within the wait: at once
        (0, 0, 0.001, 0.002),  # it is: for two gaps
        (0, 0.004, 0.001, 0.006),  # it came: two gaps more
        (0, 0.0095, 0.001, 0.010),  # but never longer than the wait
        (0, 0, 0.010, 0.010),
    ],
)
def test_a_batch_waits_only_while_company_is_likely(
    first_s: float, last_s: float, gap_s: float, closes_s: float
) -> None:
    assert closes_at(first_s, last_s, gap_s, 0.010) == pytest.approx(closes_s)


def test_the_mean_gap_follows_arrivals() -> None:
    gaps = ArrivalGaps()
    assert gaps.mean_s >= 1
    for number in range(200):
        gaps.arrived(number * 0.002)
    assert gaps.mean_s == pytest.approx(0.002, rel=0.01)
    gaps.arrived(1e6)
    assert gaps.mean_s < 0.2, "one pause is no more than a second"


def test_a_lonely_request_is_not_kept_waiting_and_one_in_a_stream_is(loop: SteppedLoop) -> None:
    model = Model()
    batcher = Batcher(model, max_rows=64, max_wait_s=0.010, inline=True, adaptive=True)
    lonely = loop.start(batcher.predict(rows(1)))
    assert lonely.done()
    for number in range(100):
        loop.advance(0.001)
        loop.start(batcher.predict(rows(number)))
    loop.advance(0.012)
    sizes = [len(batch) for batch in model.batches]
    # A gap of 1 ms and a wait of 10: about as many together as come within the wait.
    assert sum(sizes) == 101
    assert max(sizes) in (10, 11)
    model.batches.clear()
    burst: list[Any] = [loop.start(batcher.predict(rows(n))) for n in range(5)]
    loop.advance(0.005)
    assert all(one.done() for one in burst), "nobody came for two gaps, so that the burst is over"


def test_a_wait_that_does_not_adapt_is_waited_out(loop: SteppedLoop) -> None:
    model = Model()
    batcher = Batcher(model, max_rows=64, max_wait_s=0.010, inline=True, adaptive=False)
    one = loop.start(batcher.predict(rows(1)))
    loop.advance(0.009)
    assert not one.done()
    loop.advance(0.002)
    assert one.done()


def test_phases_and_reports_say_where_the_time_went(loop: SteppedLoop) -> None:
    reports: list[tuple[int, float, bool, list[float], list[tuple[float, float]]]] = []

    def observe(report: BatchReport) -> None:
        reports.append((report.rows, report.compute_s, report.failed, report.whole, report.waits))

    model, hand = Model(), ByHand()
    batcher = Batcher(model, max_rows=4, max_wait_s=0.5, inline=False, executor=hand, observers=(observe,))
    phases = Phases()
    loop.start(batcher.predict(rows(1, 1, 1, 1)))
    loop.advance(1.0)
    loop.start(batcher.predict(rows(2), phases=phases))
    loop.advance(2.0)
    hand.step()
    loop.settle()
    loop.advance(3.0)
    hand.step()
    loop.settle()
    assert (phases.queue_s, phases.compute_s, phases.batch_rows) == (2.0, 3.0, 1)
    assert phases.batch_s == 0.0, "its wait was over while the replica computed"
    assert reports == [(4, 3.0, False, [3.0] * 1, [(0.0, 0.0)]), (1, 3.0, False, [5.0], [(2.0, 0.0)])]


def test_a_batch_that_fails_is_reported_as_such(loop: SteppedLoop) -> None:
    reports: list[BatchReport] = []

    def fail(_: Any) -> Values:
        raise ValueError("no")

    batcher = Batcher(fail, max_rows=4, max_wait_s=0, inline=True, observers=(reports.append,))
    assert isinstance(loop.start(batcher.predict(rows(1, 2))).exception(), ValueError)
    assert [(report.rows, report.failed) for report in reports] == [(2, True)]


def test_what_waits_when_the_replica_stops_is_refused_and_what_is_computed_is_answered(loop: SteppedLoop) -> None:
    model, hand = Model(), ByHand()
    batcher = Batcher(model, max_rows=4, max_wait_s=0, inline=False, executor=hand, timeout_s=9)
    computed = loop.start(batcher.predict(rows(1)))
    waits = loop.start(batcher.predict(rows(2)))
    batcher.close()
    for refused in (waits, loop.start(batcher.predict(rows(3)))):
        loop.settle()
        with pytest.raises(UnavailableError, match="is stopping; ask again"):
            refused.result()
    hand.step()
    loop.settle()
    assert computed.result().value.tolist() == [1]


def test_a_specification_makes_its_batcher(loop: SteppedLoop) -> None:
    spec = BatchingSpec(max_wait_ms=5, timeout_ms=200, max_queue_requests=1, adaptive=False, ageing_ms=10)
    model = Model()
    batcher = batcher_of(spec, model, max_rows=3, inline=True)
    first = loop.start(batcher.predict(rows(1), priority="high"))
    assert isinstance(loop.start(batcher.predict(rows(2), priority="high")).exception(), TooBusyError)
    loop.advance(0.006)
    assert first.done() and model.batches == [[1]]
    no_limit = batcher_of(BatchingSpec(timeout_ms=None), model, max_rows=3, inline=True)
    assert asyncio.run(no_limit.predict(rows(1))).value.tolist() == [1]
