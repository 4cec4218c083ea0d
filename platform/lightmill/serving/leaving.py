"""Clients that go away while they wait: their request is cancelled, so that it frees its place in the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

Found = TypeVar("Found")
PATIENCE_S = 0.02
"""Requests that are answered within this time are not watched, which costs the others next to nothing."""


async def while_connected(
    work: Awaitable[Found],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    *,
    patience_s: float = PATIENCE_S,
) -> Found:
    """Return what `work` returns; cancel it when the client goes away.

    Args:
        work: What answers the request, whose body was read to its end.
        receive: ASGI's, which from then on says only that the client is gone.
        patience_s: From when on the client is watched.

    Raises:
        ConnectionError: The client went away; nobody reads an answer.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    watcher: asyncio.Task[None] | None = None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    def begin() -> None:
        nonlocal watcher
        watcher = loop.create_task(watch())

    timer = loop.call_later(patience_s, begin)
    try:
        return await work
    except asyncio.CancelledError:
        if not gone:
            raise
        task.uncancel()
        raise ConnectionError("the client went away") from None
    finally:
        timer.cancel()
        if watcher is not None:
            watcher.cancel()
