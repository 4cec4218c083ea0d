"""The adapter to Ray Serve's autoscaler, with real contexts of Serve."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lightmill.records.references import AssetKind, VersionId
from lightmill.records.scaling import ForecastPolicy, LatencyPolicy, QueuePolicy, ReplicasSpec
from lightmill.records.specs import EndpointSpec
from lightmill.registry import RegistryLocation
from lightmill.serving.phases import BatchReport
from lightmill.serving.scaling.signals import P99, RATE, LatencyCounts, LoadSignals, percentile
from lightmill.serving.scaling.status import ScalingStatus
from lightmill.serving.waiting import Part, Waiting
from tests.unit.serving.serve_contexts import context

autoscaling_state = pytest.importorskip("ray.serve._private.autoscaling_state")
from lightmill.serving.scaling.ray_policy import autoscaling_config, status_of  # noqa: E402

STATUS = ScalingStatus(now_s=1e6, running=2, target=3, ongoing=7.0)


def test_what_serve_knows_becomes_a_status() -> None:
    seen = status_of(context(ReplicasSpec(max=4), STATUS, {}, {RATE: [10.0, 5.5], P99: [0.1, 0.3]}))
    assert seen == ScalingStatus(now_s=1e6, running=2, target=3, ongoing=7.0, requests_per_s=15.5, p99_s=0.3)
    assert status_of(context(ReplicasSpec(max=4), STATUS, {})) == STATUS


def test_the_queue_is_left_to_serve() -> None:
    config = autoscaling_config(ReplicasSpec(max=4, policy=QueuePolicy(), downscale_to_zero_delay_s=5))
    assert config.policy.is_default_policy_function()
    assert (config.max_replicas, config.downscale_to_zero_delay_s) == (4, 5)


def test_serve_makes_the_policy_from_its_configuration_and_keeps_its_state() -> None:
    spec = ReplicasSpec(max=9, policy=LatencyPolicy(objective_ms=100))
    policy = autoscaling_state._resolve_policy_callable(autoscaling_config(spec).policy)
    replicas, state = policy(context(spec, STATUS, {}, {P99: [0.15, 0.15], RATE: [20, 20]}))
    assert replicas == 3
    json.dumps(state)
    later = ScalingStatus(now_s=1e6 + 40, running=2, target=2, ongoing=7.0)
    replicas, _ = policy(context(spec, later, state, {P99: [0.01, 0.01], RATE: [10, 10]}))
    assert replicas == 2, "it remembers at which load the objective was missed"
    idle = ScalingStatus(now_s=1e6 + 40, running=2, target=2, ongoing=0.0)
    assert policy(context(spec, idle, {}, {P99: [0.01, 0.01]}))[0] == 1


def test_a_forecast_lives_in_the_state_that_serve_gives_back() -> None:
    spec = ReplicasSpec(max=9, policy=ForecastPolicy(season_s=40, bucket_s=10, requests_per_s=10, lead_s=0))
    policy = autoscaling_state._resolve_policy_callable(autoscaling_config(spec).policy)
    state: dict[str, object] = {}
    replicas = 0.0
    for second in range(120):
        now = ScalingStatus(now_s=1e6 + second, running=1, target=1, ongoing=0.0)
        rate = 100.0 if second // 10 % 4 == 2 else 10.0
        replicas, state = policy(context(spec, now, state, {RATE: [rate]}))
    assert replicas < 9
    found, _ = policy(context(spec, ScalingStatus(now_s=1e6 + 140, running=1, target=1, ongoing=0.0), state))
    assert found > 9, "the peak comes when it came in the season before"


def test_the_application_of_an_endpoint_has_its_policy() -> None:
    from lightmill.serving.application import build_application

    policy = {"name": "forecast", "requests_per_s": 50}
    spec = EndpointSpec.model_validate({"name": "e", "model": "m", "replicas": {"max": 3, "policy": policy}})
    version = VersionId(kind=AssetKind.MODEL, name="m", seq=1, digest="ab" * 32)
    location = RegistryLocation(store_url="file:///nowhere", keyring_path="nowhere", workspace="default")
    deployment = build_application(spec, version, location, (), loopback=True)._bound_deployment
    config = deployment._deployment_config.autoscaling_config
    assert config is not None and config.max_replicas == 3
    assert config.policy.policy_kwargs["replicas"]["policy"]["requests_per_s"] == 50


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def report(*whole: float) -> BatchReport:
    """A batch of requests that took so long, the last part of each."""
    requests = [Waiting(np.zeros((1, 1)), None, None, -took, 0.0, None) for took in whole]  # pyright: ignore
    for request in requests:
        request.queued = False
    return BatchReport([Part(request, 0, 1) for request in requests], len(whole), 0.0, 0.0, 0.0, False)


def test_a_replica_tells_its_rate_and_latency_of_late() -> None:
    clock = Clock()
    signals = LoadSignals(clock)
    assert signals.report() == {RATE: 0.0}
    for _ in range(10):
        clock.now_s += 1
        signals.observe(report(*[0.010] * 99, 0.500))
    found = signals.report()
    assert found[RATE] == pytest.approx(100)
    assert found[P99] == pytest.approx(0.010, rel=0.09)
    clock.now_s += 15
    assert signals.report()[RATE] == pytest.approx(40, rel=0.01)
    clock.now_s += 100
    assert signals.report() == {RATE: 0.0}


@pytest.mark.parametrize("latency_s", [0.0, 1e-5, 1e-4, 0.0123, 1.0, 599.0, 1e6])
def test_a_latency_is_known_to_a_twelfth(latency_s: float) -> None:
    counts = LatencyCounts()
    counts.add(latency_s)
    found = percentile([counts], 0.99)
    assert found is not None
    assert min(max(latency_s, 1e-4), 600) <= found * 1.000001 <= min(max(latency_s, 1e-4), 700) * 1.09


def test_no_latency_without_requests() -> None:
    assert percentile([LatencyCounts()], 0.99) is None
