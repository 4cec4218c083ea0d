"""The adapter to Ray Serve's autoscaler: an endpoint's policy as the class that Serve calls in its controller.

Serve makes one instance for a deployment, calls it some times a second with what it knows, applies delays and bounds
to the answer and gives the state back the next time. The state lives in the controller's memory: after the controller
has died, a forecast begins anew, and is `queue` until it has seen a season.
"""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from lightmill.records.scaling import QueuePolicy, ReplicasSpec
from lightmill.serving.scaling.policies import decide
from lightmill.serving.scaling.signals import P99, RATE
from lightmill.serving.scaling.status import ScalingStatus

MEMORY = "lightmill"
PATH = f"{__name__}:EndpointScaling"


class EndpointScaling:
    """Calls the policy of a `ReplicasSpec`."""

    def __init__(self, replicas: dict[str, Any]) -> None:
        self._spec = ReplicasSpec.model_validate(replicas)

    def __call__(self, ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Return the replicas that are wanted, and the state for the next call."""
        decision = decide(self._spec, status_of(ctx), ctx.policy_state.get(MEMORY, {}))
        return decision.replicas, {MEMORY: decision.memory}


def status_of(ctx: AutoscalingContext) -> ScalingStatus:
    """Return what Serve knows of a deployment as our record; latency is that of the slowest replica."""
    signals = ctx.aggregated_metrics or {}
    latencies = signals.get(P99, {}).values()
    return ScalingStatus(
        now_s=ctx.current_time or 0.0,
        running=ctx.current_num_replicas,
        target=ctx.target_num_replicas,
        ongoing=ctx.total_num_requests,
        requests_per_s=sum(signals.get(RATE, {}).values()),
        p99_s=max(latencies, default=None),
    )


def autoscaling_config(spec: ReplicasSpec) -> AutoscalingConfig:
    """Return Serve's configuration of an endpoint's replicas; `queue` is left to Serve itself."""
    policy: dict[str, Any] = {}
    if not isinstance(spec.policy, QueuePolicy):
        arguments = {"replicas": spec.model_dump(mode="json")}
        policy = {"policy": AutoscalingPolicy(policy_function=PATH, policy_kwargs=arguments)}
    return AutoscalingConfig(
        min_replicas=spec.min,
        max_replicas=spec.max,
        target_ongoing_requests=spec.target_ongoing_requests,
        upscale_delay_s=spec.upscale_delay_s,
        downscale_delay_s=spec.downscale_delay_s,
        downscale_to_zero_delay_s=spec.downscale_to_zero_delay_s,
        look_back_period_s=spec.look_back_s,
        **policy,
    )
