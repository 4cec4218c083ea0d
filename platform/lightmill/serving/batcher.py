"""Dynamic batching inside a replica's event loop: requests that wait together are computed together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from lightmill.models.answers import Rows

Features = npt.NDArray[Any]
Compute = Callable[[Features], Rows]
Waiting = tuple[Features, "asyncio.Future[Any]"]


class Batcher:
    """Merges requests up to `max_rows` rows; a larger request is computed alone, `max_rows` at a time.

    Only rows of one shape are merged; requests of another, such as longer texts, wait for the next batch.

    `inline` computes on the event loop, which is right for a model faster than a thread's hand-off; other
    models run on one thread, and the loop gathers the next batch meanwhile.
    """

    def __init__(self, compute: Compute, *, max_rows: int, max_wait_s: float, inline: bool) -> None:
        self._compute = compute
        self._max_rows = max_rows
        self._max_wait_s = max_wait_s
        self._executor = None if inline else ThreadPoolExecutor(max_workers=1)
        self._waiting: list[Waiting] = []
        self._rows = 0
        self._timer: asyncio.Handle | None = None
        self._busy = False

    async def predict(self, features: Features) -> Any:
        """Return the model's answers for [rows, *shape], computed with whatever else waits."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((features, future))
        self._rows += len(features)
        self._schedule(loop)
        return await future

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._busy or not self._waiting:
            return
        if self._rows >= self._max_rows or not self._max_wait_s:
            if self._timer is not None and self._max_wait_s:
                self._timer.cancel()
                self._timer = None
            if self._timer is None:
                self._timer = loop.call_soon(self._flush)
        elif self._timer is None:
            self._timer = loop.call_later(self._max_wait_s, self._flush)

    def _flush(self) -> None:
        self._timer = None
        batch = self._take()
        if not batch:
            return
        if self._executor is None:
            self._answer(batch)
            self._schedule(asyncio.get_running_loop())
            return
        self._busy = True
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._executor, self._run, [features for features, _ in batch])
        done.add_done_callback(lambda result: self._finish(batch, result, loop))

    def _take(self) -> list[Waiting]:
        """Take the oldest requests that fit; those whose client has gone away are left out."""
        batch: list[Waiting] = []
        rows = 0
        while self._waiting:
            features, future = self._waiting[0]
            if batch and (rows + len(features) > self._max_rows or features.shape[1:] != batch[0][0].shape[1:]):
                break
            self._waiting.pop(0)
            self._rows -= len(features)
            if not future.done():
                batch.append((features, future))
                rows += len(features)
        return batch

    def _run(self, parts: list[Features]) -> Rows:
        merged = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if len(merged) <= self._max_rows:
            return self._compute(merged)
        pieces = [
            self._compute(merged[start : start + self._max_rows]) for start in range(0, len(merged), self._max_rows)
        ]
        return type(pieces[0]).joined(pieces)

    def _answer(self, batch: list[Waiting]) -> None:
        try:
            answers = self._run([features for features, _ in batch])
        except Exception as exc:  # noqa: BLE001 - whatever the model raises belongs to the callers
            _fail(batch, exc)
        else:
            _deliver(batch, answers)

    def _finish(self, batch: list[Waiting], result: asyncio.Future[Rows], loop: asyncio.AbstractEventLoop) -> None:
        self._busy = False
        problem = result.exception()
        if problem is not None:
            _fail(batch, problem)
        else:
            _deliver(batch, result.result())
        self._schedule(loop)


def _deliver(batch: list[Waiting], answers: Rows) -> None:
    start = 0
    for features, future in batch:
        stop = start + len(features)
        if not future.done():
            future.set_result(answers.rows(start, stop))
        start = stop


def _fail(batch: list[Waiting], problem: BaseException) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(problem)
