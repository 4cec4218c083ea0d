"""The door of a replica as raw ASGI, with a real gatekeeper and real signals behind it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest

from lightmill.access import mint_key
from lightmill.errors import RequestError
from lightmill.records.access import LimitsSpec
from lightmill.serving.board import MemoryBoard
from lightmill.serving.front import CALLER, GONE, PHASES, TRACE, Front
from lightmill.serving.gatekeeper import Gatekeeper
from lightmill.serving.headers import SECURITY_HEADERS, Cors
from lightmill.serving.signals.signals import Signals
from lightmill.serving.signals.tracing import Tracer
from tests.unit.serving.signals.test_access_log import Lines
from tests.unit.serving.test_service import VERSION, body
from tests.unit.serving.test_service import service as inference_service

TEXT, KEY = mint_key("ci", scopes=("predict:digits",), limits=LimitsSpec(concurrency=3))
OTHER_TEXT, OTHER = mint_key("other", scopes=("predict:letters",))
AUTHORIZED = (b"authorization", b"Bearer " + TEXT.encode())
PATH = "/v2/models/digits/infer"


@dataclass(kw_only=True)
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def error(self) -> str:
        return json.loads(self.body)["error"]


class World:
    """A front before an application that reads its body and answers with its length, or does what the test says."""

    def __init__(self, app: Any = None, *, cors: tuple[str, ...] = (), body_bytes: int = 1000) -> None:
        self.lines = Lines()
        self.signals = Signals("digits", "4", "r1", board=MemoryBoard(), write=self.lines)
        self.scopes: list[Any] = []
        self.gatekeeper = Gatekeeper("digits", [KEY, OTHER])
        self.front = Front(
            app or self.app, self.gatekeeper, self.signals, body_bytes=body_bytes, cors=Cors(cors),
            open_paths=("/v2/models/digits/docs",),
        )  # fmt: skip

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        size, more = 0, scope["method"] == "POST"
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        phases = scope[PHASES]
        phases.rows, phases.compute_s, phases.protocol = 2, 0.01, "arrow"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": str(size).encode()})

    def ask(self, *headers: tuple[bytes, bytes], parts: tuple[bytes, ...] = (b"",), **scope: Any) -> Answer | None:
        sent: list[Any] = []
        waiting = list(parts)

        async def receive() -> Any:
            part = waiting.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(waiting)}

        async def send(message: Any) -> None:
            sent.append(message)

        request = {"type": "http", "method": "POST", "path": PATH, "headers": list(headers), **scope}
        asyncio.run(self.front(request, receive, send))
        if not sent:
            return None
        return Answer(status=sent[0]["status"], headers=dict(sent[0]["headers"]), body=sent[1]["body"])

    def answered(self, *headers: tuple[bytes, bytes], **options: Any) -> Answer:
        found = self.ask(*headers, **options)
        assert found is not None
        return found

    @property
    def log(self) -> list[dict[str, Any]]:
        self.signals.close()
        return self.lines.json


def test_a_request_is_let_in_named_answered_and_written_down() -> None:
    world = World()
    found = world.answered(AUTHORIZED, (b"x-request-id", b"order-7"), parts=(b"abc", b"de"))
    assert (found.status, found.body, found.headers[b"x-request-id"]) == (200, b"5", b"order-7")
    assert set(SECURITY_HEADERS) <= set(found.headers.items())
    assert world.scopes[0][CALLER].id == KEY.id and world.scopes[0][TRACE] is None
    (line,) = world.log
    assert {key: line[key] for key in ("request", "caller", "status", "bytes_in", "bytes_out", "rows", "protocol")} == {
        "request": "order-7", "caller": KEY.id, "status": 200, "bytes_in": 5, "bytes_out": 1, "rows": 2,
        "protocol": "arrow",
    }  # fmt: skip
    assert world.signals.recorder.snapshot().running == 0


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ((), 401, "AuthenticationError"),
        (((b"authorization", b"Bearer nonsense"),), 401, "AuthenticationError"),
        (((b"x-api-key", OTHER_TEXT.encode()),), 403, "ForbiddenError"),
        ((AUTHORIZED, (b"content-length", b"1001")), 413, "TooLargeError"),
        ((AUTHORIZED, (b"content-length", b"-5")), 400, "RequestError"),
        ((AUTHORIZED, (b"content-length", b"9" * 19)), 400, "RequestError"),
    ],
)
def test_who_and_what_may_not_come_in_never_reaches_the_service(
    headers: tuple[tuple[bytes, bytes], ...], status: int, kind: str
) -> None:
    world = World()
    found = world.answered(*headers)
    assert found.status == status and found.error and world.scopes == []
    assert (found.headers.get(b"www-authenticate") == b"Bearer") == (status == 401)
    assert found.headers[b"x-content-type-options"] == b"nosniff" and found.headers[b"x-request-id"]
    (line,) = world.log
    assert (line["status"], line["error"]) == (status, kind)


def test_a_body_that_grows_too_large_is_refused() -> None:
    world = World()
    found = world.answered(AUTHORIZED, parts=(b"x" * 600, b"x" * 600))
    assert found.status == 413 and "1000 bytes" in found.error


def test_one_request_too_many_is_told_when_to_come_again_and_places_are_given_back() -> None:
    world = World()
    inside = [world.gatekeeper.admit([AUTHORIZED]) for _ in range(3)]
    found = world.answered(AUTHORIZED)
    assert found.status == 429 and found.headers[b"retry-after"] == b"1"
    for caller in inside:
        world.gatekeeper.release(caller)
    for _ in range(5):
        assert world.answered(AUTHORIZED).status == 200


def test_a_service_that_fails_gives_the_place_back_and_is_written_down() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("broken")

    world = World(fails)
    for _ in range(5):
        with pytest.raises(RuntimeError, match="broken"):
            world.ask(AUTHORIZED)
    assert {line["status"] for line in world.log} == {GONE}
    assert world.signals.recorder.snapshot().running == 0


def test_an_error_after_the_answer_began_is_not_answered_twice() -> None:
    async def late(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RequestError("too late")

    with pytest.raises(RequestError, match="too late"):
        World(late).ask(AUTHORIZED)


def test_a_client_that_goes_away_is_written_down_as_gone() -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        return None

    world = World(silent)
    assert world.ask(AUTHORIZED) is None
    assert world.log[0]["status"] == GONE


def test_the_page_of_documentation_needs_no_key_and_keeps_its_own_policy() -> None:
    async def page(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-security-policy", b"default-src 'self'")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"page"})

    world = World(page)
    found = world.answered(method="GET", path="/v2/models/digits/docs")
    assert found.status == 200 and found.headers[b"content-security-policy"] == b"default-src 'self'"
    assert found.headers[b"x-content-type-options"] == b"nosniff"
    assert world.answered(method="POST", path="/v2/models/digits/docs").status == 401


def test_pages_of_other_origins_are_answered_only_where_they_are_named() -> None:
    shop = (b"origin", b"https://shop.example")
    closed = World()
    assert closed.answered(shop, method="OPTIONS").status == 401
    assert b"access-control-allow-origin" not in closed.answered(AUTHORIZED, shop).headers
    world = World(cors=("https://shop.example",))
    assert world.answered(AUTHORIZED, shop).headers[b"access-control-allow-origin"] == b"https://shop.example"
    asked = world.answered(shop, method="OPTIONS")
    assert asked.status == 204 and b"authorization" in asked.headers[b"access-control-allow-headers"]
    assert world.answered((b"origin", b"https://evil.example"), method="OPTIONS").status == 403


def test_of_a_header_that_comes_twice_the_first_counts() -> None:
    world = World()
    assert world.answered(AUTHORIZED, (b"authorization", b"Bearer nonsense")).status == 200
    assert world.answered((b"authorization", b"Bearer nonsense"), AUTHORIZED).status == 401


def test_the_real_service_behind_it_asks_for_no_key_of_its_own() -> None:
    service = inference_service()
    service.gate = None
    world = World(service, body_bytes=1 << 20)
    found = world.answered(AUTHORIZED, parts=(body([[5.0, 0.0]]),), root_path="/v2/models/digits")
    assert found.status == 200 and json.loads(found.body)["model_version"] == str(VERSION.seq)
    assert world.answered(root_path="/v2/models/digits").status == 401


def test_a_request_by_handle_is_in_the_trace_of_its_caller() -> None:
    world, sent = World(), []

    class Exporter:
        def export(self, spans: Any) -> None:
            sent.extend(spans)

        def shutdown(self) -> None: ...

    tracer = Tracer("digits", "4", Exporter())  # pyright: ignore[reportArgumentType]
    signals = Signals("digits", "4", "r2", tracer=tracer, write=world.lines)
    front = Front(world.app, world.gatekeeper, signals, body_bytes=10)

    async def work() -> str:
        return "done"

    begun = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
    for traceparent in (None, begun):
        assert asyncio.run(front.answer(AUTHORIZED[1], None, work, traceparent)) == "done"
    tracer.flush()
    (span,) = sent
    assert (span.context.trace_id, span.parent.span_id) == (int("a" * 32, 16), int("b" * 16, 16))
    assert span.attributes["lightmill.protocol"] == "handle"
