"""Real contexts of Ray Serve's autoscaler, without a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.config import AutoscalingContext

from lightmill.records.scaling import ReplicasSpec
from lightmill.serving.scaling.ray_policy import autoscaling_config
from lightmill.serving.scaling.status import ScalingStatus

DEPLOYMENT = DeploymentID(name="predictor", app_name="endpoint-e")


def context(
    spec: ReplicasSpec,
    status: ScalingStatus,
    state: Mapping[str, Any],
    signals: Mapping[str, list[float]] | None = None,
) -> AutoscalingContext:
    replicas = [ReplicaID(unique_id=f"r{n}", deployment_id=DEPLOYMENT) for n in range(status.running)]
    aggregated = {name: dict(zip(replicas, values, strict=False)) for name, values in (signals or {}).items()}
    return AutoscalingContext(
        deployment_id=DEPLOYMENT,
        deployment_name=DEPLOYMENT.name,
        app_name=DEPLOYMENT.app_name,
        current_num_replicas=status.running,
        target_num_replicas=status.target,
        running_replicas=replicas,
        total_num_requests=lambda: status.ongoing,
        total_queued_requests=lambda: 0.0,
        aggregated_metrics=lambda: aggregated,
        raw_metrics=dict,
        capacity_adjusted_min_replicas=spec.min,
        capacity_adjusted_max_replicas=spec.max,
        policy_state=dict(state),
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=status.now_s,
        config=autoscaling_config(spec),
    )


@contextmanager
def clock(now_s: float) -> Iterator[None]:
    """Let Serve's delays see this time; they read the clock of the machine."""
    with mock.patch("ray.serve.autoscaling_policy.time.time", return_value=now_s):
        yield
