"""A client that goes away while it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from lightmill.serving.leaving import Departures
from tests.unit.serving.stepping import SteppedLoop


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    stepped = SteppedLoop()
    yield stepped
    stepped.close()


class Client:
    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.asked = 0

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def wait(until: asyncio.Event, log: list[str]) -> str:
    try:
        await until.wait()
    except asyncio.CancelledError:
        log.append("cancelled")
        raise
    return "answer"


def test_the_work_of_a_client_that_went_away_is_cancelled(loop: SteppedLoop) -> None:
    client, log = Client(), list[str]()
    task = loop.start(Departures(0.25).while_connected(wait(asyncio.Event(), log), client.receive))
    loop.advance(0.24)
    assert client.asked == 0
    loop.advance(0.3)
    assert (client.asked, log) == (1, [])
    client.gone.set()
    loop.settle()
    with pytest.raises(ConnectionError, match="went away"):
        task.result()
    assert log == ["cancelled"] and task.cancelling() == 0


def test_an_answer_comes_through_and_nobody_watches_afterwards(loop: SteppedLoop) -> None:
    client = Client()
    done, departures = asyncio.Event(), Departures(0.25)
    for advance_s, asked in ((0.1, 0), (1.0, 1)):
        done.clear()
        task = loop.start(departures.while_connected(wait(done, []), client.receive))
        loop.advance(advance_s)
        done.set()
        loop.settle()
        assert (task.result(), client.asked) == ("answer", asked)
        loop.advance(0.5)
        assert departures._timer is None
        assert [one for one in asyncio.all_tasks(loop) if not one.done()] == []


def test_who_cancels_the_request_itself_is_told_so(loop: SteppedLoop) -> None:
    client, log = Client(), list[str]()
    task = loop.start(Departures(0.25).while_connected(wait(asyncio.Event(), log), client.receive))
    loop.advance(1.0)
    task.cancel()
    loop.settle()
    assert task.cancelled() and log == ["cancelled"]


def test_an_error_of_the_work_comes_through() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(Departures().while_connected(fail(), Client().receive))
