"""A real HTTP proxy on loopback that spoils answers on purpose, in front of a real S3 server.

It passes requests on as they are (their signatures stay valid) and does to each what `plan` says:

    delay          waits `delay_s` seconds first
    500, 503       answers with InternalError or SlowDown without asking the server
    403, 409       answers AccessDenied or ConditionalRequestConflict without asking the server
    reset          resets the connection without asking the server
    lost           asks the server, then resets the connection
    lost_500       asks the server, then answers 500
    short          sends the true headers and half of the body, then closes
    wrong_200      sends status 200 and half of the body, with a length that fits the half
    wrong_206      sends the true range and half of the body, with a length that fits the half
    last_page      says of a listing's page that it is the last one
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Plan = Callable[[str, str], str]
"""(method, target) of a request -> the name of a fault; "" is none."""

_ANSWERS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
    "409": (409, "ConditionalRequestConflict"),
    "lost_500": (500, "InternalError"),
}
_UNTOUCHED = ("", "delay", "lost", "lost_500")


@dataclass(slots=True, kw_only=True)
class Message:
    """A request or an answer: its first line, headers by lower-case name, and body."""

    first: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def encode(self) -> bytes:
        head = "\r\n".join([self.first, *(f"{name}: {value}" for name, value in self.headers.items())])
        return head.encode("latin-1") + b"\r\n\r\n" + self.body


class FaultyProxy:
    """The proxy; `plan` may be set at any time. `log` holds (method, target, fault) of every request."""

    def __init__(self, upstream_port: int, delay_s: float = 0.0) -> None:
        self.plan: Plan = lambda method, target: ""
        self.delay_s = delay_s
        self.log: list[tuple[str, str, str]] = []
        self.port = 0
        self._upstream_port = upstream_port

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def faults(self) -> Counter[str]:
        """How often each fault came."""
        return Counter(fault for _, _, fault in self.log if fault)

    def count(self, method: str) -> int:
        """How many requests of this method came."""
        return sum(1 for found, _, _ in self.log if found == method)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while (request := await _read(reader)) is not None:
                if not await self._answer(request, writer):
                    break
        writer.close()

    async def _answer(self, request: Message, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False when the connection is finished."""
        method, target, _ = request.first.split(" ", 2)
        fault = self.plan(method, target)
        self.log.append((method, target, fault))
        if fault == "delay":
            await asyncio.sleep(self.delay_s)
        if fault == "reset":
            return _reset(writer)
        if fault in _ANSWERS and fault != "lost_500":
            return await _send(writer, _error(*_ANSWERS[fault]))
        answer = await self._ask(request, method)
        if fault == "lost":
            return _reset(writer)
        if fault == "lost_500":
            answer = _error(*_ANSWERS[fault])
        if fault in _UNTOUCHED:
            return await _send(writer, answer)
        return await _spoil(writer, answer, fault)

    async def _ask(self, request: Message, method: str) -> Message:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        try:
            writer.write(request.encode())
            await writer.drain()
            answer = await _read(reader, bodiless=method == "HEAD")
        finally:
            writer.close()
        assert answer is not None
        return answer


@contextmanager
def faulty_proxy(upstream_port: int, delay_s: float = 0.0) -> Iterator[FaultyProxy]:
    """Run a proxy in a thread of its own."""
    proxy = FaultyProxy(upstream_port, delay_s)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(proxy.serve, "127.0.0.1", 0))
    proxy.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def each(faults: Iterable[str], method: str = "") -> Plan:
    """These faults in this order, one per request (of one method, if it is named), then none."""
    waiting = iter(list(faults))
    return lambda called, target: next(waiting, "") if method in ("", called) else ""


def always(fault: str, method: str = "") -> Plan:
    """The same fault for every request (of one method, if it is named)."""
    return lambda called, target: fault if method in ("", called) else ""


async def _stop(server: asyncio.Server) -> None:
    server.close()
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    await asyncio.sleep(0)


async def _read(reader: asyncio.StreamReader, bodiless: bool = False) -> Message | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head[:-4].split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    message = Message(first=first, headers=headers)
    if bodiless:
        return message
    if headers.get("transfer-encoding", "").lower() == "chunked":
        message.body = await _read_chunks(reader)
        del headers["transfer-encoding"]
        headers["content-length"] = str(len(message.body))
    else:
        message.body = await reader.readexactly(int(headers.get("content-length", "0")))
    return message


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    found = bytearray()
    while True:
        size = int((await reader.readline()).split(b";")[0], 16)
        found += (await reader.readexactly(size + 2))[:size]
        if not size:
            return bytes(found)


async def _send(writer: asyncio.StreamWriter, answer: Message) -> bool:
    writer.write(answer.encode())
    await writer.drain()
    return True


async def _spoil(writer: asyncio.StreamWriter, answer: Message, fault: str) -> bool:
    half = answer.body[: len(answer.body) // 2]
    if fault == "short":
        answer.body = half
        await _send(writer, answer)
        return False
    if fault == "last_page":
        answer.body = re.sub(rb"<NextContinuationToken>.*?</NextContinuationToken>", b"", answer.body)
    else:
        answer.body = half
    answer.headers["content-length"] = str(len(answer.body))
    if fault == "wrong_200":
        answer.first = "HTTP/1.1 200 OK"
        answer.headers.pop("content-range", None)
    return await _send(writer, answer)


def _reset(writer: asyncio.StreamWriter) -> bool:
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


def _error(status: int, code: str) -> Message:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>made by the proxy</Message></Error>'.encode()
    headers = {"content-type": "application/xml", "content-length": str(len(body))}
    return Message(first=f"HTTP/1.1 {status} Fault", headers=headers, body=body)
