"""Requests that wait for a replica: who comes next, who goes together, and whether there is room. Pure.

Order: each request has a key, when it came plus a handicap of its class; the smallest goes first. So a request of a
lower class waits for those of a higher one that came up to `ageing_s` later, and never for ever. Room: a class may
fill its `SHARES` of the queue, so that the lower find it full before the higher.

A request larger than a batch is computed in pieces; after a piece the rest is queued as though it had come then, so
that small ones need not wait for the whole of it. Its last piece goes together with others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy.typing as npt

from lightmill.models.answers import Rows
from lightmill.records.batching import PRIORITIES
from lightmill.serving.phases import Phases

Features = npt.NDArray[Any]
RANKS: dict[str, int] = {name: rank for rank, name in enumerate(PRIORITIES)}
SHARES = (1.0, 0.9, 0.5)
COMPACT_FROM = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """What may wait, and what a batch holds."""

    max_rows: int
    max_bytes: int = 64 << 20
    max_queue_requests: int = 1024
    max_queue_rows: int = 65_536
    ageing_s: float = 1.0


class Waiting:
    """A request in the queue or being computed: the rows from `start` on are still to be taken for a batch."""

    __slots__ = (
        "arrived_s",
        "deadline_s",
        "features",
        "future",
        "group",
        "handicap_s",
        "key",
        "pieces",
        "queued",
        "row_bytes",
        "rows",
        "start",
        "told",
    )

    def __init__(
        self,
        features: Features,
        future: asyncio.Future[Any],
        group: Hashable,
        arrived_s: float,
        handicap_s: float,
        deadline_s: float | None,
        told: Phases | None = None,
    ) -> None:
        self.features = features
        self.future = future
        self.group = group
        self.arrived_s = arrived_s
        self.handicap_s = handicap_s
        self.key = arrived_s + handicap_s
        self.deadline_s = deadline_s
        self.told = told
        self.rows = rows = len(features)
        self.row_bytes = features.nbytes // rows if rows else 0
        self.start = 0
        self.pieces: list[Rows] | None = None
        self.queued = True


class Part(NamedTuple):
    """Rows `start` to `stop` of a request, in a batch."""

    request: Waiting
    start: int
    stop: int

    @property
    def features(self) -> Features:
        """The rows themselves."""
        whole = self.request.features
        return whole if self.stop - self.start == len(whole) else whole[self.start : self.stop]


class WaitingLine:
    """The queue. `requests`, `rows` and `size_bytes` count what waits; those that have left count no more."""

    def __init__(self, limits: QueueLimits) -> None:
        self.limits = limits
        self.requests = 0
        self.rows = 0
        self.size_bytes = 0
        self._line: list[Waiting] = []
        self._sorted = self._alike = True

    def __iter__(self) -> Iterator[Waiting]:
        return (request for request in self._line if request.queued)

    def has_room(self, rows: int, rank: int) -> bool:
        """Whether a request of a class may wait too; an empty queue takes one of any size."""
        share, limits = SHARES[rank], self.limits
        return not self.requests or (
            self.requests < limits.max_queue_requests * share and self.rows + rows <= limits.max_queue_rows * share
        )

    def add(self, request: Waiting) -> None:
        """Let a request wait."""
        line = self._line
        if line:
            last = line[-1]
            if request.key < last.key:
                self._sorted = False
            if request.row_bytes != last.row_bytes or request.group != last.group:
                self._alike = False
        else:
            self._alike = True
        line.append(request)
        self.requests += 1
        self.rows += request.rows
        self.size_bytes += request.features.nbytes

    def leave(self, request: Waiting) -> None:
        """Take a request out, whatever of it is still there; once it is out, nothing."""
        if not request.queued:
            return
        request.queued = False
        self._count_out(request, request.rows - request.start)
        self.requests -= 1
        if len(self._line) > COMPACT_FROM and len(self._line) > 2 * self.requests:
            self._line = [other for other in self._line if other.queued]

    @property
    def full(self) -> bool:
        """Whether there is a whole batch already, if all that wait are of one group."""
        return self.rows >= self.limits.max_rows or self.size_bytes >= self.limits.max_bytes

    def span(self) -> tuple[float, float]:
        """Return when the first and the last that wait came; there must be some."""
        return min(one.arrived_s for one in self), max(one.arrived_s for one in self)

    def take(self, now_s: float) -> list[Part]:
        """Take the next batch: the first request, and of those after it what is of its group and fits.

        One that does not fit ends the batch; only what is larger than a batch is cut, and only at the head of one.
        """
        if not self._sorted:
            self._line.sort(key=_key)
            self._sorted = True
        line = self._line
        if self._alike and not self.full:
            return self._take_all()
        batch: list[Part] = []
        others: list[Waiting] = []
        rows, row_bytes, group, capacity = 0, -1, None, self.limits.max_rows
        position = 0
        for request in line:
            if request.queued:
                if batch and request.group != group:
                    others.append(request)
                    position += 1
                    continue
                if request.row_bytes > row_bytes:
                    row_bytes, group = request.row_bytes, request.group
                    capacity = self._capacity(row_bytes)
                left = request.rows - request.start
                if rows + left > capacity:
                    if not batch:
                        batch.append(self._piece(request, capacity, now_s))
                    break
                batch.append(Part(request, request.start, request.rows))
                rows += left
                self._count_out(request, left)
                self.requests -= 1
                request.queued = False
            position += 1
        self._line = others + line[position:] if others else line[position:]
        return batch

    def _take_all(self) -> list[Part]:
        """Take all that wait, which are of one group and fit."""
        batch = [Part(request, request.start, request.rows) for request in self._line if request.queued]
        for part in batch:
            part.request.queued = False
        self.requests = self.rows = self.size_bytes = 0
        self._line = []
        return batch

    def _piece(self, request: Waiting, capacity: int, now_s: float) -> Part:
        """Take as many rows of a request as a batch holds; what is left goes where a request of now would."""
        part = Part(request, request.start, request.start + capacity)
        self._count_out(request, capacity)
        request.start = part.stop
        request.key = now_s + request.handicap_s
        self._sorted = False
        return part

    def _capacity(self, row_bytes: int) -> int:
        limits = self.limits
        return max(1, min(limits.max_rows, limits.max_bytes // row_bytes)) if row_bytes else limits.max_rows

    def _count_out(self, request: Waiting, rows: int) -> None:
        self.rows -= rows
        self.size_bytes -= rows * request.row_bytes


def _key(request: Waiting) -> float:
    return request.key


def join(pieces: Sequence[Rows]) -> Rows:
    """Return the answers to the pieces of a request as one."""
    return pieces[0] if len(pieces) == 1 else type(pieces[0]).joined(pieces)
