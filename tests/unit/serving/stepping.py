"""An event loop whose clock moves only when told, and computations that end when told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

Found = TypeVar("Found")


class SteppedLoop(asyncio.SelectorEventLoop):
    """Its time stands still; `advance` moves it from timer to timer, so that nothing depends on the machine."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def time(self) -> float:
        return self.now_s

    def settle(self) -> None:
        """Run what is ready, and what that makes ready."""
        for _ in range(20):
            self.call_soon(self.stop)
            self.run_forever()

    def advance(self, seconds: float) -> None:
        self.settle()
        end_s = self.now_s + seconds
        while due := [timer.when() for timer in self._scheduled if not timer.cancelled() and timer.when() <= end_s]:  # pyright: ignore
            self.now_s = max(self.now_s, min(due))
            self.settle()
        self.now_s = end_s
        self.settle()

    def close(self) -> None:
        """End what still waits: a forgotten task complains when it is collected, in the midst of another test."""
        for task in asyncio.all_tasks(self):
            task.cancel()
        self.settle()
        super().close()

    def start(self, work: Coroutine[Any, Any, Found]) -> asyncio.Task[Found]:
        """Start a task and let it come to where it waits."""
        task = self.create_task(work)
        self.settle()
        return task


class ByHand(Executor):
    """Runs what was submitted when `step` is called."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, fn, args))
        return future

    def step(self) -> None:
        future, fn, args = self.waiting.pop(0)
        try:
            future.set_result(fn(*args))
        except Exception as exc:  # noqa: BLE001 - it belongs to who waits
            future.set_exception(exc)
