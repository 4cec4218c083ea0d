"""Token buckets and places, by a clock that is a number."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lightmill.access.limits import Limiter, LimitState, share, together
from lightmill.errors import TooManyRequestsError
from lightmill.records.access import LimitsSpec


def accepted(state: LimitState, now: float) -> bool:
    try:
        state.enter(now)
    except TooManyRequestsError:
        return False
    state.leave()
    return True


def test_a_burst_comes_at_once_and_then_one_at_each_interval() -> None:
    state = LimitState(LimitsSpec(requests_per_s=2, burst=3))
    assert [accepted(state, 100.0) for _ in range(5)] == [True, True, True, False, False]
    assert [accepted(state, 100.49), accepted(state, 100.5), accepted(state, 100.5)] == [False, True, False]
    assert [accepted(state, 200.0) for _ in range(4)] == [True, True, True, False]


def test_a_refusal_says_when_to_come_again_and_is_right() -> None:
    state = LimitState(LimitsSpec(requests_per_s=0.5))
    state.enter(10.0)
    with pytest.raises(TooManyRequestsError, match=r"more requests than the 0.5 a second.*again in 1.5 s") as caught:
        state.enter(10.5)
    assert caught.value.retry_after_s == pytest.approx(1.5)
    assert accepted(state, 10.5 + caught.value.retry_after_s)


def test_only_so_many_are_answered_at_the_same_time() -> None:
    state = LimitState(LimitsSpec(concurrency=2))
    state.enter(0.0)
    state.enter(0.0)
    with pytest.raises(TooManyRequestsError, match="has 2 requests that are not answered yet"):
        state.enter(0.0)
    state.leave()
    state.enter(0.0)
    assert state.running == 2


def test_what_is_refused_takes_neither_place_nor_tokens() -> None:
    state = LimitState(LimitsSpec(requests_per_s=1, concurrency=1))
    state.enter(0.0)
    for _ in range(50):
        with pytest.raises(TooManyRequestsError):
            state.enter(0.5)
    state.leave()
    assert accepted(state, 1.0)


def test_other_limits_forget_nothing_of_what_was_used() -> None:
    state = LimitState(LimitsSpec(requests_per_s=1))
    assert accepted(state, 0.0)
    state.limit(LimitsSpec(requests_per_s=1, burst=1))
    assert not accepted(state, 0.5)
    state.limit(LimitsSpec())
    assert accepted(state, 0.5)


@settings(deadline=None)
@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=200),
)
def test_no_window_has_more_than_the_burst_and_the_rate(rate: float, burst: int, gaps: list[float]) -> None:
    state, now, times = LimitState(LimitsSpec(requests_per_s=rate, burst=burst)), 1000.0, []
    for gap in gaps:
        now += gap / rate
        if accepted(state, now):
            times.append(now)
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + rate * (times[last] - times[first]) + 1e-3


@settings(deadline=None)
@given(rate=st.floats(0.1, 1000), steps=st.lists(st.floats(1.0, 3.0), min_size=1, max_size=50))
def test_who_keeps_to_the_rate_is_never_refused(rate: float, steps: list[float]) -> None:
    state, now = LimitState(LimitsSpec(requests_per_s=rate, burst=1)), 0.0
    for step in steps:
        assert accepted(state, now)
        now += step / rate


LIMITS = st.builds(
    lambda rate, burst, concurrency: LimitsSpec(
        requests_per_s=rate, burst=burst if rate else None, concurrency=concurrency
    ),
    st.none() | st.floats(0.01, 1e6),
    st.none() | st.integers(1, 1000),
    st.none() | st.integers(1, 1000),
)


@settings(deadline=None)
@given(LIMITS, LIMITS)
def test_two_limits_together_are_no_looser_than_either(one: LimitsSpec, other: LimitsSpec) -> None:
    both = together(one, other)
    for limits in (one, other):
        assert (both.requests_per_s or math.inf) <= (limits.requests_per_s or math.inf)
        assert (both.concurrency or math.inf) <= (limits.concurrency or math.inf)
    assert together(other, one) == both


@settings(deadline=None)
@given(LIMITS, st.integers(1, 64))
def test_the_shares_of_replicas_sum_up_to_what_was_declared(limits: LimitsSpec, replicas: int) -> None:
    part = share(limits, replicas)
    if limits.requests_per_s is not None:
        assert (part.requests_per_s or 0) * replicas == pytest.approx(limits.requests_per_s)
    if limits.concurrency is not None:
        assert limits.concurrency <= (part.concurrency or 0) * replicas < limits.concurrency + replicas
    assert share(limits, 1) == limits


def test_callers_that_are_idle_are_forgotten_when_there_are_too_many() -> None:
    limiter = Limiter(most=100)
    for n in range(10_000):
        state = limiter.state(f"caller {n}", LimitsSpec(requests_per_s=1), float(n))
        state.enter(float(n))
        state.leave()
    assert len(limiter) <= 100


def test_callers_at_work_are_never_forgotten() -> None:
    limiter = Limiter(most=3)
    states = [limiter.state(name, LimitsSpec(concurrency=1), 0.0) for name in "abc"]
    for state in states:
        state.enter(0.0)
    with pytest.raises(TooManyRequestsError, match="3 callers are at work"):
        limiter.state("d", LimitsSpec(), 0.0)
    states[1].leave()
    assert limiter.state("d", LimitsSpec(), 0.0).running == 0
    assert limiter.state("a", LimitsSpec(), 0.0) is states[0]


@pytest.mark.parametrize("fields", [{"requests_per_s": 0}, {"concurrency": 0}, {"burst": 2}, {"requests_per_s": -1}])
def test_limits_that_mean_nothing_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        LimitsSpec.model_validate(fields)
