"""The simulator: what queues are known to do, repeatable numbers, and policies that tell apart."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lightmill.errors import RequestError
from lightmill.records.scaling import ForecastPolicy, LatencyPolicy, QueuePolicy, ReplicasSpec
from lightmill.records.simulations import (
    ConstantTrace,
    DiurnalTrace,
    FileTrace,
    SimulatedPolicy,
    SimulationSpec,
    SpikeTrace,
)
from lightmill.serving.simulation.arrivals import arrivals
from lightmill.serving.simulation.report import simulate
from lightmill.serving.simulation.simulator import Simulator


def spec(**changes: Any) -> SimulationSpec:
    fields: dict[str, Any] = {
        "trace": ConstantTrace(rate=20, duration_s=300),
        "service": {"batch_ms": 20, "row_ms": 0, "jitter": 0},
        "replicas": {"min": 1, "max": 1},
        "batching": {"max_rows": 1},
        "fixed": False,
    }
    return SimulationSpec.model_validate(fields | changes)


def only(spec: SimulationSpec) -> SimulatedPolicy:
    (found,) = simulate(spec).policies
    return found


def test_a_queue_waits_as_long_as_theory_says() -> None:
    """M/D/1: mean wait = rho * service / (2 * (1 - rho)); Pollaczek and Khinchine."""
    asked = spec(trace=ConstantTrace(rate=40, duration_s=3000))
    found, duration_s = arrivals(asked.trace, Random("s"))
    answered = Simulator(asked, asked.replicas).run(found, duration_s)
    mean_s = sum(answered.latency) / len(answered.latency)
    rho, service_s = 40 * 0.020, 0.020
    assert mean_s == pytest.approx(service_s + rho * service_s / (2 * (1 - rho)), rel=0.05)
    assert sorted(answered.arrived) == found


@pytest.mark.slow
def test_everything_that_came_is_answered_once_and_the_same_seed_gives_the_same() -> None:
    asked = spec(
        trace=DiurnalTrace(rate=60, low=1, period_s=300, duration_s=600),
        service={"batch_ms": 20, "row_ms": 10, "jitter": 0.3, "start_s": 20},
        replicas={"min": 0, "max": 6, "target_ongoing_requests": 3, "downscale_delay_s": 20, "upscale_delay_s": 2},
        batching={"max_rows": 8, "max_wait_ms": 5},
        policies=[
            "queue",
            {"name": "latency", "objective_ms": 150},
            {"name": "forecast", "season_s": 300, "bucket_s": 5},
        ],
        fixed=True,
    )
    first, second = simulate(asked), simulate(asked)
    assert first == second
    assert [one.policy for one in first.policies] == ["queue", "latency", "forecast", "fixed"]
    for one in first.policies:
        assert one.requests == first.requests and one.refused == 0
        assert 0 < one.p50_ms <= one.p99_ms
        assert one.most_replicas <= 6
    assert simulate(asked.model_copy(update={"seed": 1})) != first
    fixed = first.policies[-1]
    assert fixed.replica_s == pytest.approx(6 * first.duration_s, rel=0.01)
    assert all(one.replica_s < fixed.replica_s for one in first.policies[:-1])


def test_a_batch_is_worth_its_wait_where_rows_are_cheap() -> None:
    trace = ConstantTrace(rate=100, duration_s=60)
    alone = only(spec(trace=trace, slo_ms=100))
    together = only(spec(trace=trace, slo_ms=100, batching={"max_rows": 16}))
    assert alone.missed > together.missed == 0
    waits = only(spec(trace=ConstantTrace(rate=1, duration_s=60), batching={"max_rows": 16, "max_wait_ms": 50}))
    assert waits.p50_ms == pytest.approx(70, abs=1)


def test_requests_wait_for_the_first_replica_when_there_is_none() -> None:
    found = only(
        spec(
            trace=ConstantTrace(rate=2, duration_s=60),
            service={"batch_ms": 20, "row_ms": 0, "jitter": 0, "start_s": 10},
            replicas={"min": 0, "max": 1, "downscale_delay_s": 5},
        )
    )
    assert found.refused == 0 and found.most_replicas == 1
    assert found.p99_ms == pytest.approx(11_000, abs=1500)


def test_what_finds_the_queue_full_is_refused_and_missed() -> None:
    found = only(spec(trace=ConstantTrace(rate=100, duration_s=20), batching={"max_rows": 1, "max_queue_requests": 10}))
    assert found.refused == pytest.approx(1000, rel=0.1)
    assert found.missed >= found.refused


def test_a_spike_costs_the_queue_its_start_time() -> None:
    asked = spec(
        trace=SpikeTrace(rate=100, low=5, at_s=100, length_s=60, duration_s=300),
        service={"batch_ms": 20, "row_ms": 0, "jitter": 0, "start_s": 15},
        replicas={"min": 1, "max": 5, "target_ongoing_requests": 2, "upscale_delay_s": 0, "look_back_s": 11},
    )
    found = only(asked)
    assert found.most_replicas == 5
    worst = max(found.points, key=lambda point: point.missed)
    assert 100 <= worst.at_s <= 165
    assert all(point.missed == 0 for point in found.points if point.at_s < 95)


@pytest.mark.slow
def test_a_forecast_misses_less_than_the_queue_once_it_has_seen_a_season() -> None:
    asked = spec(
        trace=DiurnalTrace(rate=150, low=5, period_s=600, duration_s=1800),
        service={"batch_ms": 20, "row_ms": 0, "jitter": 0.1, "start_s": 40},
        replicas=ReplicasSpec(max=8, target_ongoing_requests=2, upscale_delay_s=5, downscale_delay_s=30),
        policies=(QueuePolicy(), ForecastPolicy(season_s=600, bucket_s=10, lead_s=50, requests_per_s=35)),
        skip_s=600,
        slo_ms=200,
    )
    queue, forecast = simulate(asked).policies
    assert forecast.missed < queue.missed / 4
    assert forecast.replica_s < 1.5 * queue.replica_s


def test_latency_holds_its_objective_with_less_than_the_most() -> None:
    asked = spec(
        trace=ConstantTrace(rate=120, duration_s=900),
        service={"batch_ms": 20, "row_ms": 0, "jitter": 0.1, "start_s": 10},
        replicas=ReplicasSpec(max=10, target_ongoing_requests=1000, upscale_delay_s=0, downscale_delay_s=30),
        policies=(LatencyPolicy(objective_ms=150),),
        skip_s=300,
        slo_ms=150,
    )
    found = only(asked)
    assert found.missed / found.requests < 0.01
    assert 2.5 < found.mean_replicas < 6


def slow_first(name: str) -> SimulatedPolicy:
    return only(
        spec(
            trace=ConstantTrace(rate=75, duration_s=100),
            keys=100,
            service={"batch_ms": 20, "row_ms": 0, "jitter": 0.1, "slow": [4]},
            replicas={"min": 3, "max": 3},
            balancing=name,
            slo_ms=200,
        )
    )


def test_choices_that_see_load_spare_a_slow_replica() -> None:
    p99 = {
        name: slow_first(name).p99_ms for name in ("round_robin", "weighted", "power_of_two", "least_loaded", "hash")
    }
    assert p99["least_loaded"] < p99["power_of_two"] * 1.5 < p99["round_robin"]
    assert p99["weighted"] < p99["round_robin"]
    assert p99["least_loaded"] < p99["hash"] < p99["round_robin"], "loads are bounded, and keys keep their replica"


@pytest.mark.parametrize(
    ("trace", "mean", "most"),
    [
        (ConstantTrace(rate=50, duration_s=400), 50, 50),
        (DiurnalTrace(rate=50, low=10, period_s=100, duration_s=400), 30, 50),
        (SpikeTrace(rate=90, low=10, at_s=100, length_s=40, duration_s=400), 18, 90),
    ],
)
def test_made_arrivals_have_their_rates(trace: Any, mean: float, most: float) -> None:
    found, duration_s = arrivals(trace, Random("a"))
    assert duration_s == 400 and found == sorted(found) and 0 <= found[0] <= found[-1] < 400
    assert len(found) / 400 == pytest.approx(mean, rel=0.05)
    counts = [0] * 40
    for at_s in found:
        counts[int(at_s // 10)] += 1
    assert max(counts) / 10 == pytest.approx(most, rel=0.2)


def test_a_log_is_replayed_as_fast_as_asked(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text("".join(f'{{"time": {1e9 + n}}}\n' for n in range(100)))
    found = only(spec(trace=FileTrace(path=str(log), speed=2), policies=["queue"]))
    assert (found.requests, found.missed) == (100, 0)
    assert found.replica_s == pytest.approx(50.5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trace": {"kind": "constant", "rate": 1e6, "duration_s": 1e6}}, "simulate less time"),
        ({"skip_s": 300}, "leaves nothing of 300 s"),
        ({"trace": {"kind": "weather"}}, "constant"),
    ],
)
def test_what_cannot_be_simulated_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        spec(**changes)


def test_a_trace_in_which_nothing_comes_is_refused() -> None:
    with pytest.raises(RequestError, match="raise the rate"):
        simulate(spec(trace=ConstantTrace(rate=1e-9, duration_s=1)))


def test_a_log_that_ends_before_what_is_counted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text('{"time": 1}\n')
    with pytest.raises(RequestError, match="leaves nothing of 1 s"):
        simulate(spec(trace=FileTrace(path=str(tmp_path / "a.log")), skip_s=5))


def test_time_is_bounded_even_if_nobody_answers() -> None:
    found = only(spec(trace=ConstantTrace(rate=5, duration_s=5), service={"batch_ms": 1e9, "row_ms": 0, "jitter": 0}))
    assert found.refused == found.requests == found.missed
    assert math.isfinite(found.p99_ms)
