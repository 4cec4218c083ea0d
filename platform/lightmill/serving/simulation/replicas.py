"""Simulated replicas: a queue, one batch at a time, and when each was there."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random

from lightmill.records.batching import BatchingSpec
from lightmill.records.simulations import SimulatedService


@dataclass(slots=True, kw_only=True)
class Replica:
    """One replica; times are seconds of the trace. `leaving` takes nothing more and goes when it has answered."""

    number: int
    begun_s: float
    ready_s: float
    slow: float
    ready: bool = False
    leaving: bool = False
    gone_s: float | None = None
    waiting: deque[float] = field(default_factory=deque)
    batch: list[float] = field(default_factory=list)
    closes_s: float | None = None

    @property
    def load(self) -> int:
        """How many requests it has."""
        return len(self.waiting) + len(self.batch)

    def closes_at(self, batching: BatchingSpec, now_s: float) -> float:
        """Return when its next batch begins, if nobody else comes; it must be idle and have something to do."""
        if len(self.waiting) >= batching.max_rows:
            return now_s
        return max(now_s, self.waiting[0] + batching.max_wait_ms / 1000)

    def begin(self, batching: BatchingSpec) -> None:
        """Take a batch from what waits."""
        self.closes_s = None
        self.batch = [self.waiting.popleft() for _ in range(min(len(self.waiting), batching.max_rows))]

    def batch_s(self, service: SimulatedService, draw: Random) -> float:
        """Return how long its batch takes."""
        mean_ms = service.batch_ms + service.row_ms * len(self.batch)
        return mean_ms / 1000 * self.slow * (draw.lognormvariate(0.0, service.jitter) if service.jitter else 1.0)
