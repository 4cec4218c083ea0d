"""Which models a replica holds: least recently used go first, by weight, and none that is in use."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import IntegrityError, RequestError, TooBusyError
from lightmill.serving.multiplexing.policy import Held, to_unload
from lightmill.serving.multiplexing.shelf import Shelf

MODELS = st.lists(
    st.tuples(st.integers(1, 50), st.integers(0, 9), st.booleans()),
    max_size=8,
).map(
    lambda found: [
        Held(id=str(place), size_bytes=size, used_s=used, busy=busy) for place, (size, used, busy) in enumerate(found)
    ]
)


@given(MODELS, st.integers(0, 60), st.integers(1, 120))
def test_as_few_as_must_be_are_unloaded_oldest_first_and_none_in_use(held: list[Held], size: int, budget: int) -> None:
    gone = to_unload(held, size, budget)
    by_id = {one.id: one for one in held}
    idle = sum(one.size_bytes for one in held if not one.busy)
    total = sum(one.size_bytes for one in held)
    if gone is None:
        assert total - idle + size > budget
        return
    left = total - sum(by_id[one].size_bytes for one in gone)
    assert left + size <= budget
    assert not any(by_id[one].busy for one in gone)
    if gone:  # without the last of them it would not fit
        assert left + by_id[gone[-1]].size_bytes + size > budget
    kept = [one for one in held if one.id not in gone and not one.busy]
    assert all(one.used_s >= by_id[name].used_s for one in kept for name in gone)


SIZES = {"a": 40, "b": 40, "c": 40, "large": 101, "bad": 10}


class Loads:
    """Loads models by name, slowly; `bad` fails."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.told: list[list[str]] = []
        self.now = 0.0
        self._lock = threading.Lock()

    def load(self, name: str) -> str:
        with self._lock:
            self.loaded.append(name)
        threading.Event().wait(0.01)
        if name == "bad":
            raise IntegrityError("damaged")
        return name.upper()

    def clock(self) -> float:
        self.now += 1
        return self.now

    def shelf(self) -> Shelf[str, str]:
        return Shelf(self.load, SIZES.__getitem__, 100, changed=self.told.append, clock=self.clock)


async def use(shelf: Shelf[str, str], name: str) -> str:
    async with shelf.using(name) as model:
        return model


def test_a_model_is_loaded_once_and_the_least_recently_used_goes() -> None:
    loads = Loads()

    async def run() -> list[str]:
        shelf = loads.shelf()
        assert await asyncio.gather(*(use(shelf, "a") for _ in range(5))) == ["A"] * 5
        await use(shelf, "b")
        await use(shelf, "a")
        await use(shelf, "c")
        assert shelf.held_bytes == 80
        return shelf.ids

    assert asyncio.run(run()) == ["a", "c"]
    assert loads.loaded == ["a", "b", "c"]
    assert loads.told == [["a"], ["a", "b"], ["a", "c"]]


def test_a_model_in_use_stays_and_one_too_large_is_refused() -> None:
    async def run() -> None:
        shelf = Loads().shelf()
        async with shelf.using("a"), shelf.using("b"):
            with pytest.raises(TooBusyError, match="does not fit beside those in use"):
                await use(shelf, "c")
            assert sorted(shelf.ids) == ["a", "b"]
        assert await use(shelf, "c") == "C"
        with pytest.raises(RequestError, match=r"models\.memory_mb lets a replica hold 100"):
            await use(shelf, "large")

    asyncio.run(run())


def test_what_fails_to_load_leaves_no_trace_and_is_tried_again() -> None:
    loads = Loads()

    async def run() -> None:
        shelf = loads.shelf()
        found: list[Any] = await asyncio.gather(*(use(shelf, "bad") for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in found] == [IntegrityError] * 3
        assert shelf.ids == [] and shelf.held_bytes == 0
        with pytest.raises(IntegrityError):
            await use(shelf, "bad")

    asyncio.run(run())
    assert loads.loaded == ["bad", "bad"] and loads.told[-1] == []


def test_who_goes_away_while_a_model_loads_does_not_end_the_load_of_others() -> None:
    async def run() -> None:
        shelf = Loads().shelf()
        first, second = (asyncio.create_task(use(shelf, "a")) for _ in range(2))
        await asyncio.sleep(0.005)
        first.cancel()
        assert await second == "A"
        with pytest.raises(asyncio.CancelledError):
            await first
        await use(shelf, "b")
        assert await use(shelf, "c") == "C"

    asyncio.run(run())
