"""Keys and sizes are checked before anything reads a body: strangers must not fill the control plane's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lightmill.access import Identity
from lightmill.errors import AuthenticationError, ForbiddenError, RequestError, TooLargeError
from lightmill.records.access import ADMIN, METRICS
from lightmill.records.endpoints import ApiKey

BODY_MAX_BYTES = 2 << 20
METRICS_ROUTE = "/metrics"


class Checker(Protocol):
    """Finds out who asks, such as `access.Identifier`."""

    def check_headers(self, headers: Iterable[tuple[bytes, bytes]], /) -> ApiKey | Identity:
        """Return who sends raw ASGI headers; AuthenticationError if nobody who is known."""
        ...


class Gate:
    """ASGI middleware in front of every path below `prefix`."""

    def __init__(self, app: ASGIApp, *, keys: Callable[[], Checker], prefix: str) -> None:
        self._app = app
        self._keys = keys
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through if its key is good; its body is counted as it is read."""
        if scope["type"] != "http" or not scope["path"].startswith(self._prefix):
            await self._app(scope, receive, send)
            return
        try:
            known = await run_in_threadpool(lambda: self._keys().check_headers(scope["headers"]))
            _check_scope(known.scopes, scope["path"].removeprefix(self._prefix))
            _check_declared(scope)
        except RequestError as exc:
            await _refuse(exc)(scope, receive, send)
            return
        await self._app(scope, _counted(receive), send)


def _check_scope(scopes: tuple[str, ...], route: str) -> None:
    if ADMIN not in scopes and not (METRICS in scopes and route == METRICS_ROUTE):
        raise ForbiddenError(
            f"The key may not use the control API; it needs the scope {ADMIN}, and has: {', '.join(scopes) or 'none'}."
        )


def _check_declared(scope: Scope) -> None:
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if declared.isdigit() and int(declared) > BODY_MAX_BYTES:
        raise TooLargeError(f"The body has {int(declared)} bytes; the control API takes {BODY_MAX_BYTES}.")


def _counted(receive: Receive) -> Receive:
    """Return `receive`, ending a body that grows beyond the limit as if the client had gone."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        return {"type": "http.disconnect"} if size > BODY_MAX_BYTES else message

    return counted


def _refuse(exc: RequestError) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(exc, AuthenticationError) else None
    return JSONResponse({"error": exc.message, "type": type(exc).__name__}, exc.status, headers=headers)
