"""What HTTP clients meet when a replica has too much to do, or when they go away themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from lightmill.access import KeyChecker
from lightmill.serving.asgi import KeyGate
from lightmill.serving.batcher import Batcher
from lightmill.serving.service import InferenceService
from lightmill.serving.waiting import QueueLimits
from tests.unit.serving.stepping import ByHand, SteppedLoop
from tests.unit.serving.test_service import AUTHORIZED, KEY, MODEL_UNDER_TEST, ROOT, VERSION

BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}).encode()


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    stepped = SteppedLoop()
    yield stepped
    stepped.close()


class Client:
    """Sends one request and waits."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self._asked = False

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": BODY, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def start(self, loop: SteppedLoop, service: InferenceService) -> asyncio.Task[None]:
        scope = {
            "type": "http",
            "method": "POST",
            "path": ROOT + "/infer",
            "root_path": ROOT,
            "headers": list(AUTHORIZED),
        }
        return loop.start(service(scope, self.receive, self.send))

    @property
    def status(self) -> int:
        return self.sent[0]["status"]


def busy(loop: SteppedLoop, timeout_s: float | None = None) -> tuple[InferenceService, Batcher, ByHand]:
    hand = ByHand()
    limits = QueueLimits(max_rows=1, max_queue_requests=2)
    batcher = Batcher(
        MODEL_UNDER_TEST.predict,
        max_rows=1,
        max_wait_s=0,
        inline=False,
        executor=hand,
        limits=limits,
        timeout_s=timeout_s,
    )
    service = InferenceService("digits", VERSION, MODEL_UNDER_TEST.card, batcher, KeyGate(KeyChecker([KEY])))
    Client().start(loop, service)
    assert len(hand.waiting) == 1
    return service, batcher, hand


def test_too_many_are_sent_away_with_a_time_to_come_again(loop: SteppedLoop) -> None:
    service, _, hand = busy(loop)
    waits = [Client(), Client()]
    for client in waits:
        client.start(loop, service)
    refused = Client()
    refused.start(loop, service)
    assert refused.status == 503
    headers = dict(refused.sent[0]["headers"])
    assert int(headers[b"retry-after"]) >= 1
    assert "2 requests with 2 rows wait already" in json.loads(refused.sent[1]["body"])["error"]
    while hand.waiting:
        hand.step()
        loop.settle()
    assert [client.status for client in waits] == [200, 200]


def test_who_waits_too_long_is_told_so(loop: SteppedLoop) -> None:
    service, _, _ = busy(loop, timeout_s=2.0)
    client = Client()
    client.start(loop, service)
    loop.advance(1.9)
    assert client.sent == []
    loop.advance(0.2)
    assert client.status == 504
    assert "deadline" in json.loads(client.sent[1]["body"])["error"]


def test_who_goes_away_frees_the_place(loop: SteppedLoop) -> None:
    service, batcher, _ = busy(loop)
    client = Client()
    task = client.start(loop, service)
    loop.advance(1.0)
    assert batcher.waiting_requests == 1
    client.gone.set()
    loop.settle()
    assert batcher.waiting_requests == 0
    assert task.done() and task.exception() is None and client.sent == []
