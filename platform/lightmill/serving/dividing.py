"""A large request in parts, answered by all replicas of its endpoint and joined in its order.

The first part that fails fails the request: parts that are under way are cancelled, those not sent yet are never sent.
So are they when the client goes away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

from lightmill.errors import LightmillError
from lightmill.models.answers import Rows
from lightmill.records.batching import Priority
from lightmill.records.parallel import SplitSpec
from lightmill.serving.tensors import Array
from lightmill.serving.waiting import join

Ask = Callable[[Array, float | None, Priority], Awaitable[Rows]]
"""Answers rows within so many seconds, if there is a limit, in a class of waiting; on any replica."""


def parts_of(rows: int, most: int) -> list[range]:
    """Return consecutive ranges of at most `most` rows that are all rows together, sizes as even as can be."""
    count = -(-rows // most)
    edges = [rows * place // count for place in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(edges)]


class Divider:
    """Divides requests of more rows than `spec` says, and asks for the answers to the parts."""

    def __init__(self, spec: SplitSpec, ask: Ask) -> None:
        self._spec = spec
        self._ask = ask

    def divides(self, rows: int) -> bool:
        """Say whether a request of so many rows is divided."""
        return rows > self._spec.rows

    async def answer(self, features: Array, deadline: float | None, priority: Priority) -> Rows:
        """Return the answers to all rows; `deadline` is a time of the loop's clock.

        Raises:
            LightmillError: What the first part that failed raised, with its number and rows.
            asyncio.CancelledError: The caller was cancelled, and with it every part.
        """
        ranges = parts_of(len(features), self._spec.rows)
        room = asyncio.Semaphore(self._spec.at_once)

        async def part(number: int, rows: range) -> Rows:
            async with room:
                left_s = None if deadline is None else deadline - asyncio.get_running_loop().time()
                try:
                    return await self._ask(features[rows.start : rows.stop], left_s, priority)
                except LightmillError as exc:
                    raise _of_part(exc, number + 1, len(ranges), rows) from exc

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part(number, rows)) for number, rows in enumerate(ranges)]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return join([task.result() for task in tasks])


def _of_part(exc: LightmillError, number: int, count: int, rows: range) -> LightmillError:
    """Return an error of the same kind whose message names the part."""
    found = type(exc)(f"Part {number} of {count} of this request (rows {rows.start} to {rows.stop - 1}): {exc.message}")
    if hasattr(exc, "retry_after_s"):
        found.retry_after_s = exc.retry_after_s  # pyright: ignore[reportAttributeAccessIssue]
    return found
