"""Work on many objects at once, with bounded memory, stopping at the first error."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = 4
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def each(work: Callable[[ItemT], ResultT], items: Iterable[ItemT], threads: int = THREADS) -> Iterator[ResultT]:
    """Yield the result of `work` for every item, in the order of the items.

    At most 2 * `threads` results wait at a time. With one thread everything happens in the caller's. The first
    error is raised after what had begun has ended; nothing else is begun.
    """
    if threads <= 1:
        yield from map(work, items)
        return
    waiting: deque[Future[ResultT]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
