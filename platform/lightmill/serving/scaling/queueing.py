"""`queue`: as many replicas as hold ongoing requests at the target; Ray Serve's own policy.

With n replicas that run, n * (ongoing / (target * n)) = ongoing / target are wanted; ray/serve/autoscaling_policy.py,
`_core_replica_queue_length_policy` and its fast path from zero.
"""

from __future__ import annotations

from lightmill.serving.scaling.status import ScalingStatus


def by_queue(target_ongoing: float, status: ScalingStatus) -> float:
    """Return the replicas that hold what is ongoing, as a fraction."""
    if not status.running:
        return max(1, status.target) if status.ongoing > 0 else status.target
    return status.ongoing / target_ongoing
