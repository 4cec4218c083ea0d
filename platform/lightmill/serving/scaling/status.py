"""What a policy sees and what it decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Memory = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingStatus:
    """The load of an endpoint.

    `now_s` is Unix time. `running` replicas answer, `target` should be there. `ongoing` requests are queued or
    computed, the mean over the look-back; `requests_per_s` and `p99_s` are of the last half minute, None if nothing
    was answered.
    """

    now_s: float
    running: int
    target: int
    ongoing: float
    requests_per_s: float = 0.0
    p99_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How many replicas there should be, before delays and the endpoint's bounds; `memory` is given back next time."""

    replicas: float
    memory: Memory = field(default_factory=dict)
