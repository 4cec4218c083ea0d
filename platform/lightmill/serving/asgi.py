"""ASGI without a framework: bodies read within limits, answers and errors sent. Source: ASGI 3.0, HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from lightmill.access import KeyChecker
from lightmill.errors import (
    LightmillError,
    MethodNotAllowedError,
    RequestError,
    TooLargeError,
    TooSlowError,
    UnavailableError,
)
from lightmill.serving.headers import retry_after
from lightmill.serving.protocols import encodings, oip
from lightmill.serving.protocols.forms import JSON, Header, Reply, content_type
from lightmill.serving.protocols.negotiation import Head
from lightmill.serving.tensors import Body

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
MAX_BODY_BYTES = 64 << 20
BODY_TIMEOUT_S = 30.0
SMALL_BYTES = 1 << 16  # bodies that are neither counted nor handed to a thread
_JSON_HEADERS = content_type(JSON)
_SWEEPS = 8


class Gate(Protocol):
    """Who may ask, and how much at once."""

    def admit(self, scope: Scope) -> Any:
        """Return the caller of a request, before anything of its body is read.

        Raises:
            LightmillError: The caller is unknown, or may not ask this, or not now.
        """
        ...

    def release(self, caller: Any) -> None:
        """Take note that a request of this caller is over."""
        ...


class KeyGate:
    """Lets everybody in who has a good API key."""

    def __init__(self, keys: KeyChecker) -> None:
        self.keys = keys

    def admit(self, scope: Scope) -> Any:
        """Return the key that the request presents.

        Raises:
            AuthenticationError: There is no key, or it is malformed, unknown or revoked.
        """
        return self.keys.check_headers(scope["headers"])

    def release(self, caller: Any) -> None:
        """Do nothing: keys are not counted."""


class BodyReader:
    """Reads bodies of at most `limit` bytes each and `total` together, each within `timeout_s`.

    What a body holds is counted until `release`; small ones are not, whose number the server limits. One timer of the
    event loop serves all bodies, so that a deadline costs a request next to nothing.
    """

    def __init__(
        self, *, limit: int = MAX_BODY_BYTES, total: int = 8 * MAX_BODY_BYTES, timeout_s: float = BODY_TIMEOUT_S
    ) -> None:
        self._limit = limit
        self._total = total
        self._timeout_s = timeout_s
        self._held = 0
        self._deadlines: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._sweeper: asyncio.Handle | None = None

    async def read(self, head: Head, receive: Receive) -> Body:
        """Return a body without its content encoding; call `release` with it when the request is over.

        Raises:
            RequestError: It is damaged, or another length was declared.
            TooLargeError: It, or what it expands to, is larger than is taken.
            TooSlowError: It did not come in time.
            UnavailableError: Too much of others is held.
            ConnectionError: The client went away.
        """
        declared = None if head.content_length is None else self._declared(head.content_length)
        body = await self._within_time(receive)
        if declared is not None and declared != len(body):
            self.release(body)
            raise RequestError(f"Header Content-Length says {declared}, but the body has {len(body)} bytes.")
        if head.content_encoding is None or not encodings.is_encoded(head.content_encoding):
            return body
        return await self._expanded(body, head.content_encoding)

    def release(self, body: Body) -> None:
        """Take note that a body is no longer held."""
        if len(body) > SMALL_BYTES:
            self._held -= len(body)

    def _declared(self, value: bytes) -> int:
        if not value.isdigit() or len(value) > 18:
            raise RequestError("Header Content-Length must be a number of bytes.")
        declared = int(value)
        if declared > self._limit:
            raise TooLargeError(f"The body has {declared} bytes; at most {self._limit} are taken.")
        return declared

    async def _within_time(self, receive: Receive) -> Body:
        task: Any = asyncio.current_task()
        loop = asyncio.get_running_loop()
        self._deadlines[task] = loop.time() + self._timeout_s
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._timeout_s / _SWEEPS, self._sweep)
        try:
            message = await receive()
            if message.get("more_body", False) or message["type"] == "http.disconnect":
                return await self._collected(message, receive)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            raise TooSlowError(f"The body did not come within {self._timeout_s:g} s; send it again, faster.") from None
        finally:
            del self._deadlines[task]
            if self._late:
                self._late.discard(task)
        body: Body = message.get("body", b"")
        if len(body) > SMALL_BYTES:
            self._count(len(body), 0)
        return body

    def _sweep(self) -> None:
        """End the reading of bodies that are late; the timer ends when none is being read."""
        loop = asyncio.get_running_loop()
        for task, deadline in list(self._deadlines.items()):
            if deadline <= loop.time() and task not in self._late:
                self._late.add(task)
                task.cancel()
        again = bool(self._deadlines)
        self._sweeper = loop.call_later(self._timeout_s / _SWEEPS, self._sweep) if again else None

    async def _collected(self, message: Message, receive: Receive) -> Body:
        gathered = bytearray()
        counted = 0
        try:
            while message["type"] != "http.disconnect":
                gathered += message.get("body", b"")
                counted = self._count(len(gathered), counted)
                if not message.get("more_body", False):
                    return gathered
                message = await receive()
            raise ConnectionError("the client went away")
        except BaseException:
            self._held -= counted
            raise

    def _count(self, size: int, counted: int) -> int:
        """Count a body of `size` bytes, of which `counted` were, and return how many are now."""
        if size > self._limit:
            raise TooLargeError(f"The body is larger than {self._limit} bytes.")
        if size <= SMALL_BYTES:
            return 0
        if self._held + size - counted > self._total:
            raise UnavailableError("This replica holds too many large bodies now; send yours again in a moment.")
        self._held += size - counted
        return size

    async def _expanded(self, body: Body, encoding: bytes) -> Body:
        try:
            if len(body) <= SMALL_BYTES:
                found = encodings.expanded(body, encoding, self._limit)
            else:
                found = await asyncio.to_thread(encodings.expanded, body, encoding, self._limit)
        finally:
            self.release(body)
        self._count(len(found), 0)
        return found


def error_reply(exc: LightmillError) -> tuple[int, Reply]:
    """Return the status and the answer that carry an error."""
    headers: tuple[Header, ...] = _JSON_HEADERS
    if exc.status == 401:
        headers = (*headers, (b"www-authenticate", b"Bearer"))
    elif exc.status in (429, 503):
        headers = (*headers, retry_after(getattr(exc, "retry_after_s", 1)))
    return exc.status, Reply(body=oip.error(exc.message), headers=headers)


def json_reply(body: bytes) -> Reply:
    """Return an answer in JSON."""
    return Reply(body=body, headers=_JSON_HEADERS)


async def encoded(reply: Reply, head: Head) -> Reply:
    """Return an answer compressed, if the caller takes that and it is worth it."""
    if head.accept_encoding is None or len(reply.body) < encodings.SMALLEST_BYTES:
        return reply
    chosen = encodings.choice(head.accept_encoding)
    if chosen is None or not encodings.is_worth_it(reply, chosen):
        return reply
    if len(reply.body) <= SMALL_BYTES:
        return encodings.compressed(reply, chosen)
    return await asyncio.to_thread(encodings.compressed, reply, chosen)


async def send_reply(send: Send, status: int, reply: Reply) -> None:
    """Send an answer."""
    headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def allow(method: str, wanted: str) -> None:
    """Check a request's method.

    Raises:
        MethodNotAllowedError: It is another.
    """
    if method != wanted:
        raise MethodNotAllowedError(f"Use {wanted} on this route, not {method}.")


async def lifespan(receive: Receive, send: Send) -> None:
    """Acknowledge a server's start and end."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
