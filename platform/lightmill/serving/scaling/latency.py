"""`latency`: keeps the 99th percentile of latency under an objective.

Feedback in proportion, as the horizontal autoscaler of Kubernetes has it (desired = running * measured / wanted),
bounded by `most_growth` since latency rises without bound near saturation and then says little of how many are
missing. After a change of replicas it waits until the latencies of before are forgotten. It goes down one by one, and
remembers the load of each replica at which the objective was last missed, so as not to come back there.
"""

from __future__ import annotations

from lightmill.records.scaling import LatencyPolicy
from lightmill.serving.scaling.status import Decision, Memory, ScalingStatus

SETTLE_S = 30.0
"""How long latencies of before a change are seen: as long as replicas count them."""


def by_latency(policy: LatencyPolicy, status: ScalingStatus, memory: Memory) -> Decision:
    """Return the replicas that should hold the objective."""
    running = status.running
    if not running:
        return Decision(replicas=max(1, status.target) if status.ongoing > 0 else status.target, memory=memory)
    changed_s = memory.get("changed_s", -SETTLE_S)
    if memory.get("running") != running:
        if "running" in memory:
            changed_s = status.now_s
        memory = memory | {"running": running, "changed_s": changed_s}
    if status.p99_s is None:
        # Nothing was answered: there is no load, or all of it still waits.
        return Decision(replicas=status.target if status.ongoing > 0 else 0, memory=memory)
    missed = status.p99_s * 1000 / policy.objective_ms
    if status.now_s - changed_s < SETTLE_S:
        return Decision(replicas=status.target, memory=memory)
    each = status.requests_per_s / running
    if missed > 1:
        wanted = max(running + 1, running * min(missed, policy.most_growth))
        return Decision(replicas=max(wanted, status.target), memory=memory | {"missed_at": each})
    if "missed_at" in memory:
        memory = memory | {"missed_at": max(memory["missed_at"], each)}
    if missed < policy.relaxed and status.target <= running:
        most = policy.busy * memory.get("missed_at", float("inf"))
        fewer = running - 1
        fits = status.requests_per_s <= most * fewer if fewer else status.ongoing == 0
        return Decision(replicas=fewer if fits else running, memory=memory)
    return Decision(replicas=status.target, memory=memory)
