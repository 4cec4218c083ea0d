"""The models that a replica holds in memory: loaded when they are asked for, unloaded when others need their room.

All methods are called on one event loop; loading runs in a thread. A model that is asked for while it is being loaded
is loaded once. Its room is taken before it is loaded, so that loads at once do not overfill memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from lightmill.errors import RequestError, TooBusyError
from lightmill.serving.multiplexing.policy import Held, to_unload

logger = logging.getLogger("lightmill.serving")
Key = TypeVar("Key")
Loaded = TypeVar("Loaded")


class _Place(Generic[Loaded]):
    __slots__ = ("loading", "size_bytes", "used_s", "users")

    def __init__(self, size_bytes: int, loading: asyncio.Future[Loaded]) -> None:
        self.size_bytes = size_bytes
        self.loading = loading
        self.users = 0
        self.used_s = 0.0


class Shelf(Generic[Key, Loaded]):
    """Models by a key whose text is their id."""

    def __init__(
        self,
        load: Callable[[Key], Loaded],
        size_of: Callable[[Key], int],
        budget_bytes: int,
        *,
        changed: Callable[[list[str]], None] = lambda ids: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin empty.

        Args:
            load: Loads a model; called in a thread.
            size_of: Says how large its weights are, in bytes; called in a thread.
            budget_bytes: How much is held at most.
            changed: Hears of the ids that are held whenever they change.
            clock: Returns seconds that never go back.
        """
        self._load, self._size_of = load, size_of
        self._budget = budget_bytes
        self._changed = changed
        self._clock = clock
        self._places: dict[str, _Place[Loaded]] = {}

    @property
    def ids(self) -> list[str]:
        """The ids of the models that are held or being loaded."""
        return list(self._places)

    @property
    def held_bytes(self) -> int:
        """How much they take."""
        return sum(place.size_bytes for place in self._places.values())

    @asynccontextmanager
    async def using(self, key: Key) -> AsyncIterator[Loaded]:
        """Yield a model that stays until the end of the block.

        Raises:
            RequestError: It is larger than all the room there is.
            TooBusyError: The others are in use, and it does not fit beside them.
            LightmillError: What loading raised; the next caller tries again.
        """
        place = self._places.get(str(key)) or await self._placed(key)
        place.users += 1
        try:
            yield await asyncio.shield(place.loading)
        finally:
            place.users -= 1
            place.used_s = self._clock()

    async def _placed(self, key: Key) -> _Place[Loaded]:
        size = await asyncio.to_thread(self._size_of, key)
        id = str(key)
        place = self._places.get(id)
        if place is not None:  # another request was sooner
            return place
        self._make_room(id, size)
        loading = asyncio.get_running_loop().run_in_executor(None, self._load, key)
        place = self._places[id] = _Place(size, asyncio.ensure_future(loading))
        place.used_s = self._clock()
        place.loading.add_done_callback(lambda done: self._end_load(id, done))
        self._changed(self.ids)
        return place

    def _end_load(self, id: str, done: asyncio.Future[Loaded]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._places.pop(id, None)
            self._changed(self.ids)
        else:
            logger.info("loaded model %s; %d models of %d bytes are held", id, len(self._places), self.held_bytes)

    def _make_room(self, id: str, size: int) -> None:
        if size > self._budget:
            raise RequestError(
                f"Model {id} has {size} bytes of weights, and models.memory_mb lets a replica hold {self._budget}; "
                "raise it, or deploy an endpoint for this model."
            )
        held = [
            Held(
                id=one,
                size_bytes=place.size_bytes,
                used_s=place.used_s,
                busy=bool(place.users) or not place.loading.done(),
            )
            for one, place in self._places.items()
        ]
        gone = to_unload(held, size, self._budget)
        if gone is None:
            raise TooBusyError(f"Model {id} does not fit beside those in use now; ask again in a moment.")
        for one in gone:
            del self._places[one]
