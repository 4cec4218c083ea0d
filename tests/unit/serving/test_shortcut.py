"""The way past Serve: the endpoint's own requests take it, others do not, and Serve's books are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lightmill.serving import shortcut
from lightmill.serving.front import PHASES, Phases
from lightmill.serving.shortcut import Shortcut, middlewares, offer

PREFIX = "/v2/models/digits"


class Metrics:
    def __init__(self) -> None:
        self.running = 0
        self.told: list[dict[str, Any]] = []

    def inc_num_ongoing_requests(self, request: Any) -> None:
        assert request.is_direct_ingress
        self.running += 1

    def dec_num_ongoing_requests(self, request: Any) -> None:
        self.running -= 1

    def record_request_metrics(self, **told: Any) -> None:
        assert told["latency_ms"] >= 0

    def record_ingress_request_metrics(self, **told: Any) -> None:
        self.told.append(told)


class Replica:
    """What Serve's replica has of the names that the shortcut knows."""

    def __init__(self, *, thread: bool = False) -> None:
        self._metrics_manager = Metrics()
        self._deployment_id = SimpleNamespace(app_name="endpoint-digits", name="predictor")
        self._user_callable_wrapper = SimpleNamespace(_run_user_code_in_separate_thread=thread)
        self.asked: list[str] = []

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope.get("path", scope["type"]))

    @property
    def metrics(self) -> Metrics:
        return self._metrics_manager


class Named:
    """As Serve's own middleware holds the application behind it."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, *words: Any) -> None:
        await self._app(*words)


@pytest.fixture(autouse=True)
def _forgets() -> Iterator[None]:
    yield
    shortcut._endpoints.clear()


async def _nothing() -> Any:
    return {"type": "http.request", "body": b""}


async def _unsent(message: Any) -> None:
    pass


def ask(app: Any, path: str, type: str = "http") -> dict[str, Any]:
    scope = {"type": type, "path": path, "method": "POST", "headers": []}
    asyncio.run(app(scope, _nothing, _unsent))
    return scope


def test_only_the_endpoint_s_own_requests_take_it() -> None:
    seen: list[tuple[str, str, int]] = []
    replica = Replica()

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["path"], scope["root_path"], replica.metrics.running))
        scope[PHASES] = Phases()
        scope[PHASES].status = 429

    offer(PREFIX, endpoint)
    (one,) = middlewares()
    app = one.cls(Named(replica.serve))  # pyright: ignore[reportCallIssue]
    for path in (PREFIX, f"{PREFIX}/infer", f"{PREFIX}2/infer", "/-/healthz", "/v2/models"):
        ask(app, path)
    ask(app, f"{PREFIX}/infer", "websocket")
    assert seen == [(PREFIX, PREFIX, 1), (f"{PREFIX}/infer", PREFIX, 1)]
    assert replica.asked == [f"{PREFIX}2/infer", "/-/healthz", "/v2/models", f"{PREFIX}/infer"]
    assert replica.metrics.running == 0
    assert [(told["status_code"], told["is_error"], told["route"]) for told in replica.metrics.told] == [
        ("429", True, PREFIX)
    ] * 2


def test_a_request_that_breaks_is_counted_and_under_way_no_more() -> None:
    replica = Replica()

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("broken")

    offer(PREFIX, endpoint)
    app = Shortcut(Named(replica.serve))
    with pytest.raises(RuntimeError, match="broken"):
        ask(app, PREFIX)
    assert replica.metrics.running == 0 and replica.metrics.told[0]["status_code"] == "500"


@pytest.mark.parametrize("unlike", ["no endpoint", "no replica", "other names", "a thread of its own"])
def test_where_serve_is_otherwise_everything_goes_on_to_it(unlike: str) -> None:
    replica = Replica(thread=unlike == "a thread of its own")
    asked: list[str] = []

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("not asked")

    if unlike != "no endpoint":
        offer(PREFIX, endpoint)
    if unlike == "other names":
        del replica._deployment_id
    app = Shortcut(plain if unlike == "no replica" else Named(replica.serve))
    ask(app, f"{PREFIX}/infer")
    assert asked + replica.asked == [f"{PREFIX}/infer"]
