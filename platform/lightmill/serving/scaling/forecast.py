"""`forecast`: replicas for the arrivals that are foreseen when one that starts now would be ready.

The memory holds mean requests a second of the last parts of a season, up to `SEASONS_KEPT` seasons, the sum over the
part that is going on, what is foreseen, and what a replica takes. More waiting than was foreseen counts too: the
decision is never below that of `queue`.
"""

from __future__ import annotations

import math

from lightmill.records.scaling import ForecastPolicy
from lightmill.serving.scaling.forecasting import holt_winters, seasonal_naive
from lightmill.serving.scaling.queueing import by_queue
from lightmill.serving.scaling.status import Decision, Memory, ScalingStatus

SEASONS_KEPT = 3
BUSY_SHARE = 0.5
LEARNING = 0.02
METHODS = {"seasonal_naive": seasonal_naive, "holt_winters": holt_winters}


def by_forecast(policy: ForecastPolicy, target_ongoing: float, status: ScalingStatus, memory: Memory) -> Decision:
    """Return the replicas for the most that is foreseen from now until one that starts now would be ready."""
    memory = _counted(policy, status, memory)
    memory = _learned(policy, target_ongoing, status, memory)
    needed = by_queue(target_ongoing, status)
    takes = policy.requests_per_s or memory.get("takes")
    foreseen = memory["foreseen"]
    if takes and foreseen:
        into_s = status.now_s - memory["bucket"] * policy.bucket_s
        parts = 1 + math.ceil((into_s + policy.lead_s) / policy.bucket_s)
        needed = max(needed, max(foreseen[:parts]) * policy.headroom / takes)
    return Decision(replicas=needed, memory=memory)


def _counted(policy: ForecastPolicy, status: ScalingStatus, memory: Memory) -> Memory:
    """Return the memory with this status counted, and the forecast made anew where a part of the season began."""
    bucket = int(status.now_s // policy.bucket_s)
    last = memory.get("bucket")
    if last is None or not last <= bucket <= last + policy.buckets:
        begun = {
            "bucket": bucket,
            "history": (),
            "sum": status.requests_per_s,
            "count": 1,
            "foreseen": (),
            "whole": False,
        }
        return {name: memory[name] for name in ("takes",) if name in memory} | begun
    if bucket == last:
        return memory | {"sum": memory["sum"] + status.requests_per_s, "count": memory["count"] + 1}
    mean = memory["sum"] / memory["count"]
    # Parts in which nobody asked, since the controller slept, are taken for like the last one.
    passed = [mean] * (bucket - last)
    if not memory["whole"]:
        passed = passed[1:]  # the first part was not seen from its beginning
    history = (*memory["history"], *passed)[-SEASONS_KEPT * policy.buckets :]
    ahead = 2 + math.ceil(policy.lead_s / policy.bucket_s)
    foreseen = METHODS[policy.method](history, policy.buckets, ahead) if len(history) >= policy.buckets else ()
    begun = {"bucket": bucket, "history": history, "sum": status.requests_per_s, "count": 1, "whole": True}
    return memory | begun | {"foreseen": tuple(foreseen)}


def _learned(policy: ForecastPolicy, target_ongoing: float, status: ScalingStatus, memory: Memory) -> Memory:
    """Return the memory with what a replica takes, seen while they have about the target to do.

    Requests a second for each replica, times target / ongoing if they have less to do than the target: by Little's law
    that is what they would take at the target, were latency the same.
    """
    if policy.requests_per_s or not status.running or not status.requests_per_s:
        return memory
    each = status.ongoing / status.running
    if not BUSY_SHARE * target_ongoing <= each <= 2 * target_ongoing:
        return memory
    seen = status.requests_per_s / status.running * min(1.0, target_ongoing / each)
    known = memory.get("takes", seen)
    return memory | {"takes": known + LEARNING * (seen - known)}
