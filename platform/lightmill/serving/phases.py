"""Where the time of a request went: what a batcher tells those who ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightmill.serving.waiting import Part


class Phases:
    """Where the time of one request went, in seconds; the batcher fills it in for a caller who gives one.

    `queue_s` is until the replica was free, `batch_s` the wait for others after that, `compute_s` the computation of
    the last batch that had rows of it, which had `batch_rows` rows in all.
    """

    __slots__ = ("batch_rows", "batch_s", "compute_s", "queue_s")

    def __init__(self) -> None:
        self.queue_s = self.batch_s = self.compute_s = 0.0
        self.batch_rows = 0


class BatchReport:
    """One batch of `rows` that was computed in `compute_s`, or `failed`. It is true while an observer is told it.

    The rest is worked out only for who asks, since a report is made for every batch.
    """

    __slots__ = ("_batch", "_ended_s", "_free_s", "_started_s", "failed", "rows")

    def __init__(
        self, batch: Sequence[Part], rows: int, free_s: float, started_s: float, ended_s: float, failed: bool
    ) -> None:
        self._batch = batch
        self._free_s, self._started_s, self._ended_s = free_s, started_s, ended_s
        self.rows = rows
        self.failed = failed

    @property
    def compute_s(self) -> float:
        """How long the computation took."""
        return self._ended_s - self._started_s

    @property
    def waits(self) -> list[tuple[float, float]]:
        """For each request with rows in it, how long it waited for the replica, and then for others."""
        return [waits(request.arrived_s, self._free_s, self._started_s) for request, _, _ in self._batch]

    @property
    def whole(self) -> list[float]:
        """How long each request took that is now answered: from when it came until the computation ended."""
        ended_s = self._ended_s
        return [ended_s - request.arrived_s for request, _, _ in self._batch if not request.queued]


def waits(arrived_s: float, free_s: float, started_s: float) -> tuple[float, float]:
    """Return how long a request waited for the replica, and how long for others to share its batch."""
    begun_s = min(max(arrived_s, free_s), started_s)
    return begun_s - arrived_s, started_s - begun_s
