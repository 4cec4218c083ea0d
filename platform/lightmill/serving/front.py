"""What stands before an endpoint's service and is the same whatever the service speaks, as raw ASGI.

For each request: a name, a trace, pages of other origins, who asks and how much, the size of its body; then the
service; then headers for every answer and one line of signals. The service finds the caller in the scope under
`CALLER`, and writes what it knows of the request's way into the `Phases` under `PHASES`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextvars import ContextVar
from time import perf_counter, time
from typing import Any, TypeVar

import orjson

from lightmill.errors import LightmillError, RequestError, TooLargeError
from lightmill.serving.gatekeeper import Caller, Gatekeeper
from lightmill.serving.headers import REQUEST_ID, SECURITY_HEADERS, Cors, RawHeaders, retry_after
from lightmill.serving.signals.access_log import Answered
from lightmill.serving.signals.signals import Signals
from lightmill.serving.signals.tracing import TraceContext

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Found = TypeVar("Found")

CALLER, PHASES, TRACE = "lightmill.caller", "lightmill.phases", "lightmill.trace"
ASKING: ContextVar[str] = ContextVar("asking", default="")
"""The id of who asks by handle, for the work that `Front.answer` does for it."""
GONE = 499
"""The status in signals of a request whose client went away before its answer."""
_JSON = (b"content-type", b"application/json")
_OURS = frozenset({REQUEST_ID, b"vary", *(name for name, _ in SECURITY_HEADERS)})


class Phases:
    """What a service tells of one request. Times are in seconds; `tokens` are those read and written.

    `status` and `bytes_out` are seen by whoever sends the answer.
    """

    __slots__ = (
        "batch_wait_s", "bytes_in", "bytes_out", "compute_s", "error",
        "protocol", "queue_s", "request_id", "rows", "status", "tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self.protocol = "oip"
        self.request_id = ""
        self.queue_s = self.batch_wait_s = self.compute_s = 0.0
        self.rows = self.tokens = self.bytes_in = self.bytes_out = 0
        self.status = GONE
        self.error: str | None = None


class Front:
    """Wraps the service of one replica."""

    def __init__(
        self,
        app: App,
        gatekeeper: Gatekeeper,
        signals: Signals,
        *,
        body_bytes: int,
        cors: Cors | None = None,
        open_paths: Iterable[str] = (),
    ) -> None:
        """Stand before `app`.

        Args:
            app: The service.
            gatekeeper: Who may come in.
            signals: Hears of every request.
            body_bytes: The largest body that is taken.
            cors: Whose pages may read answers; nobody's by default.
            open_paths: Paths that are shown to anybody who GETs them, such as a page of documentation.
        """
        self._app = app
        self._gatekeeper = gatekeeper
        self._signals = signals
        self._body_bytes = body_bytes
        self._cors = cors or Cors(())
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        at, started = time(), perf_counter()
        headers: dict[bytes, bytes] = dict(reversed(list(scope["headers"])))  # of one that comes twice, the first
        phases = scope[PHASES] = Phases()
        trace = scope[TRACE] = self._signals.trace(headers.get(b"traceparent"))
        name = self._signals.ids.name(headers.get(REQUEST_ID))
        phases.request_id = name.decode()
        more = ((REQUEST_ID, name), *SECURITY_HEADERS)
        if self._cors:
            more += self._cors.answer(headers.get(b"origin"))

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                phases.status = message["status"]
                shown = _with(message["headers"], more)
                message = {"type": "http.response.start", "status": phases.status, "headers": shown}
            else:
                phases.bytes_out += len(message.get("body", b""))
            await send(message)

        caller: Caller | None = None
        self._signals.recorder.running += 1
        try:
            if self._cors and scope["method"] == "OPTIONS":
                await self._preflight(headers.get(b"origin"), sending)
                return
            if not (scope["method"] == "GET" and scope["path"] in self._open):
                caller = self._gatekeeper.admit_values(headers.get(b"authorization"), headers.get(b"x-api-key"))
                scope[CALLER] = caller
            receive = self._limited(headers.get(b"content-length"), receive, phases)
            await self._app(scope, receive, sending)
        except LightmillError as exc:
            if phases.status != GONE:
                raise
            phases.error = type(exc).__name__
            await _refuse(exc, sending)
        finally:
            if caller is not None:
                self._gatekeeper.release(caller)
            self._signals.recorder.running -= 1
            self._tell(scope, at, perf_counter() - started, name, caller, phases, trace)

    async def answer(
        self,
        authorization: bytes | None,
        x_api_key: bytes | None,
        work: Callable[[], Awaitable[Found]],
        traceparent: bytes | None = None,
    ) -> Found:
        """Return what `work` returns for a request that came by handle; see `Gatekeeper.admit_values` for refusals.

        It is traced if its caller's `traceparent` says so.
        """
        at = time()
        trace = self._signals.trace(traceparent) if traceparent is not None else None
        started, status, error = perf_counter(), 500, None
        caller = self._gatekeeper.admit_values(authorization, x_api_key)
        ASKING.set(caller.id)
        self._signals.recorder.running += 1
        try:
            found = await work()
            status = 200
            return found
        except LightmillError as exc:
            status, error = exc.status, type(exc).__name__
            raise
        finally:
            self._gatekeeper.release(caller)
            self._signals.recorder.running -= 1
            self._signals.recorder.request(status, perf_counter() - started, "handle", error)
            if trace is not None:
                self._signals.traced(_by_handle(at, caller, status, perf_counter() - started, error, trace), trace)

    def _tell(
        self,
        scope: Scope,
        at: float,
        total_s: float,
        name: bytes,
        caller: Caller | None,
        phases: Phases,
        trace: TraceContext | None,
    ) -> None:
        answered = Answered(
            at=at,
            request_id=phases.request_id,
            caller=caller.id if caller is not None else "",
            method=scope["method"],
            path=scope["path"],
            status=phases.status,
            protocol=phases.protocol,
            total_s=total_s,
            bytes_in=phases.bytes_in,
            bytes_out=phases.bytes_out,
            rows=phases.rows,
            queue_s=phases.queue_s,
            batch_wait_s=phases.batch_wait_s,
            compute_s=phases.compute_s,
            error=phases.error,
            trace_id=trace.id if trace is not None else None,
        )
        self._signals.finish(answered, trace, phases.tokens)

    def close(self) -> None:
        """Write the rest of what was to be told."""
        self._signals.close()

    def _limited(self, declared: bytes | None, receive: Receive, phases: Phases) -> Receive:
        """Refuse a body that is declared too large; return what counts one that is not declared.

        Raises:
            RequestError: The declared length is none.
            TooLargeError: It is more than is taken.
        """
        if declared is None:
            return self._counted(receive, phases)
        if not declared.isdigit() or len(declared) > 18:
            raise RequestError("Header Content-Length must be a number of bytes.")
        phases.bytes_in = int(declared)
        if phases.bytes_in > self._body_bytes:
            raise TooLargeError(
                f"The body has {phases.bytes_in} bytes; this endpoint takes at most {self._body_bytes}."
            )
        return receive

    def _counted(self, receive: Receive, phases: Phases) -> Receive:
        async def counted() -> Message:
            message = await receive()
            phases.bytes_in += len(message.get("body", b""))
            if phases.bytes_in > self._body_bytes:
                raise TooLargeError(f"The body is larger than the {self._body_bytes} bytes that this endpoint takes.")
            return message

        return counted

    async def _preflight(self, origin: bytes | None, send: Send) -> None:
        headers = self._cors.preflight(origin)
        await send({"type": "http.response.start", "status": 204 if headers else 403, "headers": [*headers]})
        await send({"type": "http.response.body", "body": b""})


def _by_handle(
    at: float, caller: Caller, status: int, total_s: float, error: str | None, trace: TraceContext
) -> Answered:
    """Return what a trace tells of a request that came by handle."""
    return Answered(
        at=at,
        request_id="",
        caller=caller.id,
        method="POST",
        path="",
        status=status,
        protocol="handle",
        total_s=total_s,
        bytes_in=0,
        bytes_out=0,
        error=error,
        trace_id=trace.id,
    )


def _with(own: Iterable[tuple[bytes, bytes]], more: RawHeaders) -> list[tuple[bytes, bytes]]:
    """Return an answer's headers and ours; what the service said itself, such as of a page, counts."""
    found = [*own]
    for name, _ in found:
        if name in _OURS:
            said = {name for name, _ in found}
            return [*found, *(header for header in more if header[0] not in said)]
    found += more
    return found


async def _refuse(exc: LightmillError, send: Send) -> None:
    body = orjson.dumps({"error": exc.message})
    headers = [_JSON, (b"content-length", b"%d" % len(body))]
    if exc.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    wait_s = getattr(exc, "retry_after_s", None)
    if wait_s is not None:
        headers.append(retry_after(wait_s))
    await send({"type": "http.response.start", "status": exc.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
