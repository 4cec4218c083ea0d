"""Dynamic batching inside a replica's event loop: requests that wait together are computed together.

The parts: `waiting` says who goes next and whether there is room, `arrivals` when a batch closes, `padding` which texts
of unequal lengths go together. This module keeps them going on the loop, and tells observers where time went.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from lightmill.errors import DeadlineError, TooBusyError, UnavailableError
from lightmill.models.answers import Rows
from lightmill.records.batching import BatchingSpec, Priority
from lightmill.serving.arrivals import ArrivalGaps, closes_at
from lightmill.serving.padding import LengthBuckets
from lightmill.serving.phases import BatchReport, Phases, waits
from lightmill.serving.waiting import RANKS, Features, Part, QueueLimits, Waiting, WaitingLine, join

Compute = Callable[..., Rows]
LEAST_RETRY_S, MOST_RETRY_S = 0.1, 60.0
SPEED_SMOOTHING = 0.2


Observer = Callable[[BatchReport], None]


class Computes(Protocol):
    """What a service asks for answers: a batcher, or what stands for one."""

    async def predict(
        self,
        features: Features,
        *,
        deadline: float | None = None,
        priority: Priority = "normal",
        phases: Phases | None = None,
    ) -> Any:
        """Return answers to rows; see `Batcher.predict`."""


class Batcher:
    """Merges requests up to `max_rows` rows; a larger request is computed `max_rows` at a time.

    Only rows of one shape and type are merged, or with `buckets` rows of tokens of one bucket of lengths; then
    `compute` is called with the padded rows and their lengths, and answers have a method `cut` if they are as long as
    the row.

    `inline` computes on the event loop, which is right for a model faster than a thread's hand-off; other
    models run on one thread, or what `executor` is, and the loop gathers the next batch meanwhile. All methods are
    called on one loop.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        max_rows: int,
        max_wait_s: float,
        inline: bool,
        adaptive: bool = False,
        timeout_s: float | None = None,
        limits: QueueLimits | None = None,
        buckets: LengthBuckets | None = None,
        observers: Sequence[Observer] = (),
        executor: Executor | None = None,
    ) -> None:
        self._compute = compute
        self._max_wait_s = max_wait_s
        self._adaptive = adaptive
        self._timeout_s = timeout_s
        self._limits = limits or QueueLimits(max_rows=max_rows)
        self._buckets = buckets
        self._observers = tuple(observers)
        self._executor = None if inline else executor or ThreadPoolExecutor(max_workers=1)
        self._line = WaitingLine(self._limits)
        self._gaps = ArrivalGaps()
        self._timer: asyncio.Handle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_s = math.inf
        self._batch: list[Part] = []
        self._busy = self._closed = self._asked = False
        self._free_s = self._speed = 0.0

    @property
    def waiting_requests(self) -> int:
        """How many requests wait; those that are computed now do no more."""
        return self._line.requests

    @property
    def waiting_rows(self) -> int:
        """How many rows wait."""
        return self._line.rows

    async def predict(
        self,
        features: Features,
        *,
        deadline: float | None = None,
        priority: Priority = "normal",
        phases: Phases | None = None,
    ) -> Any:
        """Return the model's answers for [rows, *shape], computed with whatever else waits.

        Args:
            features: The rows; they must not change until they are answered.
            deadline: The time of the loop's clock (`time.monotonic`) until which the answer is wanted; without, the
                batcher's timeout from now.
            priority: The class: who waits for whom.
            phases: Filled in, if given.

        Raises:
            TooBusyError: As much waits as may; it says when to come again.
            DeadlineError: The answer was not there in time.
            asyncio.CancelledError: The caller was cancelled; its place is free at once.
        """
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        line, rank = self._line, RANKS[priority]
        if not line.has_room(len(features), rank) or self._closed:
            raise self._refusal(len(features))
        if deadline is None and self._timeout_s is not None:
            deadline = now_s + self._timeout_s
        if deadline is not None and (deadline <= now_s or deadline < self._sweep_s):
            self._sweep_by(deadline, now_s, loop)
        buckets = self._buckets
        group = features.shape[1:] if buckets is None else (buckets.bucket(features.shape[1]), features.shape[2:])
        handicap_s = rank * self._limits.ageing_s
        request = Waiting(features, loop.create_future(), (features.dtype, group), now_s, handicap_s, deadline, phases)
        line.add(request)
        self._asked = self._asked or phases is not None
        if self._adaptive:
            self._gaps.arrived(now_s)
        self._schedule(loop, now_s)
        try:
            return await request.future
        except asyncio.CancelledError:
            line.leave(request)
            raise

    def close(self) -> None:
        """Refuse what waits and what comes; what is being computed is still answered."""
        self._closed = True
        for request in list(self._line):
            self._line.leave(request)
            _refuse(request, UnavailableError("The replica is stopping; ask again, another one answers."))
        for handle in (self._timer, self._sweeper):
            if handle is not None:
                handle.cancel()
        if self._executor is not None:
            self._executor.shutdown(wait=False)

    def _schedule(self, loop: asyncio.AbstractEventLoop, now_s: float) -> None:
        """See that a flush comes: at once for a full batch, else when waiting is no longer worth it."""
        if self._busy or not self._line.requests:
            return
        if not self._max_wait_s or self._line.full:
            if self._timer is not None and isinstance(self._timer, asyncio.TimerHandle):
                self._timer.cancel()
                self._timer = None
            if self._timer is None:
                self._timer = loop.call_soon(self._flush)
        elif self._timer is None:
            self._wait(loop, now_s)

    def _wait(self, loop: asyncio.AbstractEventLoop, now_s: float) -> None:
        first_s, last_s = self._line.span()
        closes_s = first_s + self._max_wait_s
        if self._adaptive:
            closes_s = closes_at(first_s, last_s, self._gaps.mean_s, self._max_wait_s)
        if closes_s <= now_s:
            self._timer = loop.call_soon(self._flush)
        else:
            self._timer = loop.call_at(closes_s, self._end_wait)

    def _end_wait(self) -> None:
        """Compute, or wait on if others came meanwhile and more are likely."""
        self._timer = None
        if not self._line.requests:
            return
        loop = asyncio.get_running_loop()
        if self._adaptive:
            self._wait(loop, loop.time())
        else:
            self._flush()

    def _flush(self) -> None:
        self._timer = None
        if self._busy:
            return
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        batch = self._line.take(started_s)
        if not batch:
            return
        self._batch = batch
        if self._executor is None:
            try:
                answers: Rows | BaseException = self._run(batch)
            except Exception as exc:  # noqa: BLE001 - whatever the model raises belongs to the callers
                answers = exc
            self._finish(loop, started_s, answers)
            return
        self._busy = True
        done = loop.run_in_executor(self._executor, self._run, batch)
        done.add_done_callback(lambda found: self._finish(loop, started_s, found.exception() or found.result()))

    def _run(self, batch: Sequence[Part]) -> Rows:
        parts = [part.features for part in batch]
        if self._buckets is not None and any(part.shape[1] != parts[0].shape[1] for part in parts):
            return self._compute(*self._buckets.pad(parts))
        return self._compute(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _finish(self, loop: asyncio.AbstractEventLoop, started_s: float, answers: Rows | BaseException) -> None:
        batch, self._batch = self._batch, []
        self._busy = False
        ended_s = loop.time()
        if isinstance(answers, BaseException):
            for part in batch:
                self._line.leave(part.request)
                _refuse(part.request, answers)
        else:
            _deliver(batch, answers)
        self._tell(batch, started_s, ended_s, isinstance(answers, BaseException))
        self._free_s = ended_s
        if not self._closed:
            self._schedule(loop, ended_s)

    def _tell(self, batch: Sequence[Part], started_s: float, ended_s: float, failed: bool) -> None:
        compute_s, free_s = ended_s - started_s, self._free_s
        rows = sum([stop - start for _, start, stop in batch])
        if self._asked:
            for request, _, _ in batch:
                if request.told is not None:
                    request.told.queue_s, request.told.batch_s = waits(request.arrived_s, free_s, started_s)
                    request.told.compute_s, request.told.batch_rows = compute_s, rows
        speed = rows / compute_s if compute_s > 0 else 0.0
        self._speed += SPEED_SMOOTHING * (speed - self._speed) if self._speed else speed
        if self._observers:
            report = BatchReport(batch, rows, free_s, started_s, ended_s, failed)
            for observe in self._observers:
                observe(report)

    def _refusal(self, rows: int) -> UnavailableError:
        if self._closed:
            return UnavailableError("The replica is stopping; ask again, another one answers.")
        line, limits = self._line, self._limits
        wait_s = line.rows / self._speed if self._speed else 1.0
        return TooBusyError(
            f"{line.requests} requests with {line.rows} rows wait already, and this one has {rows}; the queue holds "
            f"{limits.max_queue_requests} requests and {limits.max_queue_rows} rows, of lower classes fewer. "
            "Ask again later.",
            retry_after_s=min(max(wait_s, LEAST_RETRY_S), MOST_RETRY_S),
        )

    def _sweep_by(self, deadline_s: float, now_s: float, loop: asyncio.AbstractEventLoop) -> None:
        """See that deadlines are looked at by then; one timer serves all requests."""
        if deadline_s <= now_s:
            raise DeadlineError("The request's deadline has passed already; give it more time.")
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweeper, self._sweep_s = loop.call_at(deadline_s, self._sweep), deadline_s

    def _sweep(self) -> None:
        """Refuse those whose time is over, those that are being computed too."""
        self._sweeper, self._sweep_s = None, math.inf
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        earliest = math.inf
        for request in [*self._line, *(part.request for part in self._batch)]:
            due_s = request.deadline_s
            if due_s is None or request.future.done():
                continue
            if due_s <= now_s:
                self._line.leave(request)
                waited = f"{now_s - request.arrived_s:.3g} s"
                _refuse(request, DeadlineError(f"No answer within {waited}: the deadline passed. Ask again later."))
            else:
                earliest = min(earliest, due_s)
        if earliest < math.inf:
            self._sweeper, self._sweep_s = loop.call_at(earliest, self._sweep), earliest


def batcher_of(
    spec: BatchingSpec,
    compute: Compute,
    *,
    max_rows: int,
    inline: bool,
    buckets: LengthBuckets | None = None,
    observers: Sequence[Observer] = (),
    executor: Executor | None = None,
) -> Batcher:
    """Return the batcher that a specification asks for; `max_rows` is what the model takes of it."""
    return Batcher(
        compute,
        max_rows=max_rows,
        max_wait_s=spec.max_wait_ms / 1000,
        inline=inline,
        adaptive=spec.adaptive,
        timeout_s=None if spec.timeout_ms is None else spec.timeout_ms / 1000,
        limits=QueueLimits(
            max_rows=max_rows,
            max_bytes=spec.max_bytes,
            max_queue_requests=spec.max_queue_requests,
            max_queue_rows=spec.max_queue_rows,
            ageing_s=spec.ageing_ms / 1000,
        ),
        buckets=buckets,
        observers=observers,
        executor=executor,
    )


def _deliver(batch: Sequence[Part], answers: Rows) -> None:
    at = 0
    for request, start, stop in batch:
        found = answers if len(batch) == 1 else answers.rows(at, at + stop - start)
        at += stop - start
        if hasattr(found, "cut"):
            found = found.cut(request.features.shape[1])  # pyright: ignore[reportAttributeAccessIssue] - see Batcher
        if request.pieces is not None or request.queued:
            if request.pieces is None:
                request.pieces = []
            request.pieces.append(found)
            if request.queued:
                continue
            found = join(request.pieces)
        if not request.future.done():
            request.future.set_result(found)


def _refuse(request: Waiting, problem: BaseException) -> None:
    if not request.future.done():
        request.future.set_exception(problem)
