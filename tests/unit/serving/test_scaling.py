"""Policies of scaling, stepped by hand; the queue's and the delays are held against Ray Serve's own."""

from __future__ import annotations

import math
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.records.scaling import (
    ForecastPolicy,
    LatencyPolicy,
    ReplicasSpec,
    SchedulePolicy,
    ScheduleWindow,
)
from lightmill.serving.scaling.forecasting import holt_winters, seasonal_naive
from lightmill.serving.scaling.latency import by_latency
from lightmill.serving.scaling.policies import Pending, decide, delayed
from lightmill.serving.scaling.schedule import bounds_at
from lightmill.serving.scaling.status import Memory, ScalingStatus


def status(now_s: float = 0.0, running: int = 2, target: int | None = None, **more: float) -> ScalingStatus:
    fields = {"ongoing": 0.0} | more
    return ScalingStatus(now_s=now_s, running=running, target=running if target is None else target, **fields)


@pytest.mark.parametrize(("ongoing", "running", "replicas"), [(16, 2, 2), (32, 2, 4), (0, 2, 0), (1, 0, 1), (0, 0, 0)])
def test_queue_holds_the_target(ongoing: float, running: int, replicas: float) -> None:
    spec = ReplicasSpec(max=9, target_ongoing_requests=8)
    assert decide(spec, status(running=running, ongoing=ongoing), {}).replicas == replicas


OBJECTIVE = LatencyPolicy(objective_ms=100, relaxed=0.5, most_growth=2, busy=0.8)


def latency(
    p99_s: float | None,
    memory: Memory,
    *,
    now_s: float = 1e6,
    running: int = 4,
    ongoing: float = 8,
    requests_per_s: float = 0,
) -> tuple[float, Memory]:
    load = {"ongoing": ongoing, "requests_per_s": requests_per_s}
    found = by_latency(OBJECTIVE, status(now_s, running, p99_s=p99_s, **load), memory)  # pyright: ignore
    return found.replicas, found.memory


def test_latency_grows_in_proportion_and_shrinks_one_by_one() -> None:
    assert latency(0.15, {})[0] == 6
    assert latency(9.0, {})[0] == 8, "at most twice as many"
    assert latency(0.101, {})[0] == 5, "one more at least"
    assert latency(0.08, {})[0] == 4, "near the objective nothing changes"
    assert latency(0.01, {})[0] == 3


def test_latency_does_not_go_back_to_a_load_that_missed() -> None:
    _, memory = latency(0.2, {}, running=2, requests_per_s=100)
    assert memory["missed_at"] == 50
    settled = {"running": 3, "changed_s": 0.0, "missed_at": 50}
    assert latency(0.01, settled, running=3, requests_per_s=100)[0] == 3, "two would have fifty each"
    assert latency(0.01, settled, running=3, requests_per_s=75)[0] == 2, "two have less than forty"
    _, memory = latency(0.01, settled, running=3, requests_per_s=180)
    assert memory["missed_at"] == 60, "sixty each were no load that misses"


def test_latency_waits_until_a_change_is_felt() -> None:
    _, memory = latency(0.08, {}, now_s=0)
    assert latency(0.5, memory, now_s=10, running=5)[0] == 5, "what is measured is of before"
    _, memory = latency(0.5, memory, now_s=10, running=5)
    assert latency(0.5, memory, now_s=39, running=5)[0] == 5
    assert latency(0.5, memory, now_s=41, running=5)[0] == 10


def test_latency_without_answers() -> None:
    assert latency(None, {}, ongoing=0)[0] == 0
    assert latency(None, {}, ongoing=3)[0] == 4
    assert latency(None, {}, ongoing=3, running=0)[0] == 1


BERLIN = ZoneInfo("Europe/Berlin")
OFFICE = SchedulePolicy(
    timezone="Europe/Berlin",
    lead_s=600,
    windows=(
        ScheduleWindow(days="mon-fri", start="08:00", end="18:00", min=4),
        ScheduleWindow(days="sat", start="22:00", end="02:00", min=0, max=1),
    ),
)


@pytest.mark.parametrize(
    ("moment", "bounds"),
    [
        (datetime(2026, 3, 27, 7, 49, tzinfo=BERLIN), (1, 6)),
        (datetime(2026, 3, 27, 7, 50, tzinfo=BERLIN), (4, 6)),  # ten minutes before, to be ready
        (datetime(2026, 3, 27, 17, 59, tzinfo=BERLIN), (4, 6)),
        (datetime(2026, 3, 27, 18, 0, tzinfo=BERLIN), (1, 6)),
        (datetime(2026, 3, 28, 12, 0, tzinfo=BERLIN), (1, 6)),
        (datetime(2026, 3, 28, 23, 0, tzinfo=BERLIN), (0, 1)),
        (datetime(2026, 3, 29, 1, 59, tzinfo=BERLIN), (0, 1)),  # the window began on Saturday; clocks go forward at 2
        (datetime(2026, 3, 29, 3, 0, tzinfo=BERLIN), (1, 6)),
        (datetime(2026, 3, 30, 8, 0, tzinfo=BERLIN), (4, 6)),  # eight o'clock is another hour of UTC now
    ],
)
def test_a_schedule_follows_the_clock_on_the_wall(moment: datetime, bounds: tuple[int, int]) -> None:
    assert bounds_at(OFFICE, moment.timestamp(), 1, 6) == bounds
    spec = ReplicasSpec(min=1, max=6, policy=OFFICE)
    assert bounds[0] <= decide(spec, status(moment.timestamp()), {}).replicas <= bounds[1]


def wave(step: int, season: int = 24) -> float:
    return 50 + 40 * math.sin(2 * math.pi * step / season)


@pytest.mark.parametrize("method", [seasonal_naive, holt_winters])
def test_a_seasonal_series_is_foretold_and_its_trend(method: object) -> None:
    assert callable(method)
    for trend in (0.0, 0.1):
        history = [wave(step) + trend * step for step in range(72)]
        expected = [wave(step) + trend * step for step in range(72, 78)]
        assert method(history, 24, 6) == pytest.approx(expected, rel=0.03, abs=1.0)


@given(st.lists(st.floats(0, 1e6), min_size=4, max_size=40), st.integers(2, 4), st.integers(1, 9))
def test_a_forecast_is_a_number_of_arrivals_whatever_was_seen(history: list[float], season: int, ahead: int) -> None:
    for method in (seasonal_naive, holt_winters):
        found = method(history, season, ahead)
        assert len(found) == ahead and all(math.isfinite(value) and value >= 0 for value in found)


def test_a_forecast_scales_before_the_peak() -> None:
    policy = ForecastPolicy(season_s=240, bucket_s=10, lead_s=20, headroom=1.0, requests_per_s=10)
    spec = ReplicasSpec(max=50, target_ongoing_requests=1000, policy=policy)
    memory: Memory = {}
    wanted = {}
    for second in range(3 * 240):
        now = status(float(second), ongoing=1.0, requests_per_s=wave(second // 10))
        found = decide(spec, now, memory)
        memory, wanted[second] = found.memory, found.replicas
    assert max(wanted[second] for second in range(240)) < 1, "before a season was seen it is the queue"
    for second in range(500, 700):
        # What is wanted now is what arrivals need in the time until a replica is ready.
        peak = max(wave(step) for step in range(second // 10, (second + 20) // 10 + 1))
        assert wanted[second] >= peak / 10 * 0.9


def test_what_a_replica_takes_is_learned_at_the_target() -> None:
    policy = ForecastPolicy(season_s=20, bucket_s=10)
    spec = ReplicasSpec(max=50, target_ongoing_requests=10, policy=policy)
    memory = decide(spec, status(0.0, ongoing=2.0, requests_per_s=4.0), {}).memory
    assert "takes" not in memory, "replicas with little to do do not tell"
    memory = decide(spec, status(1.0, ongoing=20.0, requests_per_s=60.0), memory).memory
    assert memory["takes"] == 30
    memory = decide(spec, status(1000.0, ongoing=2.0, requests_per_s=4.0), memory).memory
    assert (memory["takes"], memory["history"]) == (30, ()), "after a long pause arrivals are forgotten, this is not"


@settings(max_examples=40, deadline=None)
@given(
    st.data(),
    st.builds(
        ReplicasSpec,
        min=st.integers(0, 2),
        max=st.integers(2, 9),
        upscale_delay_s=st.sampled_from([0.0, 3.0, 7.5]),
        downscale_delay_s=st.sampled_from([0.0, 4.0, 20.0]),
        downscale_to_zero_delay_s=st.sampled_from([None, 0.0, 9.0]),
    ),
)
def test_delays_and_bounds_are_those_of_ray_serve(data: st.DataObject, spec: ReplicasSpec) -> None:
    autoscaling = pytest.importorskip("ray.serve.autoscaling_policy")
    contexts = pytest.importorskip("tests.unit.serving.serve_contexts")
    target, running, now_s = spec.min, spec.min, 1000.0
    pending: Pending | None = None
    state: dict[str, object] = {}
    for _ in range(data.draw(st.integers(1, 15))):
        desired = data.draw(st.one_of(st.integers(0, 10), st.floats(0, 10).map(lambda value: round(value, 2))))
        ongoing = float(data.draw(st.integers(0, 3)))
        now_s += data.draw(st.sampled_from([0.5, 2.0, 5.0, 30.0]))
        seen = status(now_s, running, target, ongoing=ongoing)
        serve = autoscaling._apply_autoscaling_config(lambda ctx, desired=desired: (desired, {}))
        context = contexts.context(spec, seen, state)
        with contexts.clock(now_s):
            theirs, state = serve(context)
        theirs = max(spec.min, min(spec.max, math.ceil(theirs)))
        ours, pending = delayed(spec, desired, seen, pending)
        assert ours == theirs
        target = ours
        running = data.draw(st.sampled_from([target, running]))
