"""The policies by what a specification says: status and memory in, decision out. Pure, but for files of time zones."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightmill.records.scaling import ForecastPolicy, LatencyPolicy, ReplicasSpec, SchedulePolicy
from lightmill.serving.scaling.forecast import by_forecast
from lightmill.serving.scaling.latency import by_latency
from lightmill.serving.scaling.queueing import by_queue
from lightmill.serving.scaling.schedule import bounds_at
from lightmill.serving.scaling.status import Decision, Memory, ScalingStatus

ELAPSED_EPSILON_S = 1e-6


def decide(spec: ReplicasSpec, status: ScalingStatus, memory: Memory) -> Decision:
    """Return how many replicas an endpoint should have, before delays and its bounds."""
    policy, target = spec.policy, spec.target_ongoing_requests
    if isinstance(policy, LatencyPolicy):
        return by_latency(policy, status, memory)
    if isinstance(policy, ForecastPolicy):
        return by_forecast(policy, target, status, memory)
    if isinstance(policy, SchedulePolicy):
        least, most = bounds_at(policy, status.now_s, spec.min, spec.max)
        return Decision(replicas=min(max(by_queue(target, status), least), most), memory=memory)
    return Decision(replicas=by_queue(target, status), memory=memory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A change that is wanted since `since_s`; more replicas or fewer."""

    more: bool
    since_s: float


def delayed(
    spec: ReplicasSpec, desired: float, status: ScalingStatus, pending: Pending | None
) -> tuple[int, Pending | None]:
    """Return the replicas that there should be once delays and bounds are kept, and the change that still waits.

    This is what Ray Serve does with a policy's decision (`_apply_autoscaling_config` and `apply_bounds`); the simulator
    has it from here, and a test holds it against Serve's.
    """
    target = status.target
    if not status.running and status.ongoing > 0:
        return _bounded(spec, max(1, target)), pending
    # Serve takes the difference to what runs, whose sum is a rounding error away from what is desired.
    wanted = math.ceil(status.running + 1.0 * (desired - status.running)) if status.running else math.ceil(desired)
    if math.ceil(desired) < status.running == wanted:
        wanted -= 1
    if not status.running and wanted > 0:
        return _bounded(spec, wanted), pending
    wanted = max(0, wanted)
    if wanted == target:
        return _bounded(spec, target), None
    more = wanted > target
    since_s = pending.since_s if pending is not None and pending.more is more else status.now_s
    delay_s = spec.upscale_delay_s
    if not more:
        delay_s = spec.downscale_delay_s
        if target == 1 and spec.downscale_to_zero_delay_s is not None:
            delay_s = spec.downscale_to_zero_delay_s
        if target > 1:
            wanted = max(1, wanted)
    if status.now_s - since_s + ELAPSED_EPSILON_S >= delay_s:
        return _bounded(spec, wanted), None
    return _bounded(spec, target), Pending(more=more, since_s=since_s)


def _bounded(spec: ReplicasSpec, replicas: int) -> int:
    return max(spec.min, min(spec.max, replicas))
