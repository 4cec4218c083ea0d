"""What workers tell the driver while they train."""

from __future__ import annotations

from typing import Protocol

from lightmill.records.base import Record

TOLD_MAX = 64
"""So many workers tell; the means over a larger team are over its first ones."""


class StepPart(Record):
    """What one worker measured over the steps that ended with step `step` of the run, counted from 1.

    `rows` are those of all workers, `loss_sum` and `count` this worker's alone: the loss summed over what it is a mean
    of, 0 where the worker computes none. `data_wait_s` and `blocked_s` are parts of `seconds`; `blocked_s` is None
    where it cannot be told. `shown` are values of the whole run, such as the learning rate.
    """

    rank: int
    world: int
    data_rank: int
    data_world: int
    epoch: int
    step: int
    total: int
    steps: int
    seconds: float
    rows: int
    loss_sum: float
    count: float
    tokens: bool
    data_wait_s: float
    blocked_s: float | None
    memory_bytes: int
    shown: dict[str, float]


class Traced(Record):
    """What the profiler found: the operators that took the most time, as text, and a Chrome trace, gzip."""

    table: str
    trace: bytes


class Tell(Protocol):
    """Takes what a worker tells. Nothing that goes wrong with it may disturb the worker."""

    def parts(self, parts: list[StepPart]) -> None:
        """Take measurements."""
        ...

    def traced(self, traced: Traced) -> None:
        """Take what the profiler found."""
        ...

    def flush(self) -> None:
        """Return when what was told has arrived, or will not."""
        ...
