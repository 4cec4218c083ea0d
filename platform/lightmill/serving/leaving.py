"""Clients that go away while they wait: their request is cancelled, so that it frees its place in the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

Found = TypeVar("Found")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
PATIENCE_S = 0.02


class _Waiting:
    __slots__ = ("gone", "receive", "task", "tick", "watcher")

    def __init__(self, task: asyncio.Task[Any], receive: Receive, tick: int) -> None:
        self.task = task
        self.receive = receive
        self.tick = tick
        self.watcher: asyncio.Task[None] | None = None
        self.gone = False

    async def watch(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self.task.cancel()


class Departures:
    """Watches the clients of one event loop.

    Only those that have waited for `patience_s` at least, and twice that at most, are watched: one timer looks at all,
    so that requests which are answered sooner cost next to nothing.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._waiting: dict[asyncio.Task[Any], _Waiting] = {}
        self._tick = 0
        self._timer: asyncio.TimerHandle | None = None

    async def while_connected(self, work: Awaitable[Found], receive: Receive) -> Found:
        """Return what `work` returns; cancel it when the client goes away.

        Args:
            work: What answers the request, whose body was read to its end.
            receive: ASGI's, which from then on says only that the client is gone.

        Raises:
            ConnectionError: The client went away; nobody reads an answer.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        one = self._waiting[task] = _Waiting(task, receive, self._tick)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._look)
        try:
            return await work
        except asyncio.CancelledError:
            if not one.gone:
                raise
            task.uncancel()
            raise ConnectionError("the client went away") from None
        finally:
            del self._waiting[task]
            if one.watcher is not None:
                one.watcher.cancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for one in self._waiting.values():
            if one.watcher is None and one.tick < self._tick:
                one.watcher = loop.create_task(one.watch())
        self._tick += 1
        self._timer = loop.call_later(self._patience_s, self._look) if self._waiting else None
