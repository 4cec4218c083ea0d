"""Servers as threads of the leading process, reached over TCP: for workers of one machine that run without Ray.

Messages are pickled; both ends are processes of one run, on the loopback address, and prove to each other that they
know the run's random key (HMAC, as `multiprocessing.connection` does it).
"""

from __future__ import annotations

import pickle
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, wait
from threading import Event, Thread
from typing import Any

from lightmill.errors import LightmillError, UnavailableError
from lightmill.training.servers.port import Servers
from lightmill.training.servers.server import Server
from lightmill.training.servers.shard import Array, ServerSetting

_GONE = (EOFError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the servers of a run listen, and the key that opens them."""

    ports: tuple[int, ...]
    key: bytes


class Listening:
    """Servers that answer in threads of this process."""

    def __init__(self, setting: ServerSetting, dealt: Sequence[Mapping[str, Array]]) -> None:
        """Begin to listen."""
        key = secrets.token_bytes(32)
        self._listeners = [Listener(("127.0.0.1", 0), backlog=setting.workers + 1, authkey=key) for _ in dealt]
        self.address = Address(ports=tuple(int(one.address[1]) for one in self._listeners), key=key)
        self._ended = Event()
        self._threads = [
            Thread(target=self._accept, args=(listener, Server(setting, values)), daemon=True)
            for listener, values in zip(self._listeners, dealt, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Take no more links; those that are there end with their workers."""
        if self._ended.is_set():
            return
        self._ended.set()
        for port, thread in zip(self.address.ports, self._threads, strict=True):
            with suppress(OSError):  # it may have ended with the last link
                socket.create_connection(("127.0.0.1", port)).close()  # wakes the thread that waits for links
            thread.join()

    def _accept(self, listener: Listener, server: Server) -> None:
        with listener:
            while True:
                try:
                    link = listener.accept()
                except (*_GONE, AuthenticationError):
                    link = None  # it went away, or does not know the key
                if self._ended.is_set():
                    return
                if link is not None:
                    Thread(target=_answer, args=(link, server), daemon=True).start()


def _answer(link: Connection, server: Server) -> None:
    while True:
        try:
            method, arguments = pickle.loads(link.recv_bytes())  # noqa: S301 - from a worker that knows the key
        except _GONE:
            return
        try:
            answer: tuple[bool, Any] = True, getattr(server, method)(*arguments)
        except LightmillError as exc:
            answer = False, exc
        except Exception as exc:  # noqa: BLE001 - whatever it is, the caller must not wait for ever
            answer = False, LightmillError(f"A parameter server failed: {type(exc).__name__}: {exc}")
        try:
            link.send_bytes(pickle.dumps(answer, protocol=5))
        except _GONE:
            return


class SocketServers(Servers):
    """Links over TCP."""

    def __init__(self, address: Address, listening: Listening | None = None) -> None:
        """Link up; `listening` is closed with the links, where this worker made it."""
        self._listening = listening
        self._links = [Client(("127.0.0.1", port), authkey=address.key) for port in address.ports]
        self._waiting: set[int] = set()
        self.count = len(self._links)

    def begin(self, server: int, method: str, *arguments: Any) -> None:
        """See the base."""
        try:
            self._links[server].send_bytes(pickle.dumps((method, arguments), protocol=5))
        except _GONE as exc:
            raise UnavailableError(f"Parameter server {server} is gone.") from exc
        self._waiting.add(server)

    def answers(self) -> Iterator[tuple[int, Any]]:
        """See the base."""
        while self._waiting:
            some = {self._links[server]: server for server in self._waiting}
            for link in wait(list(some)):
                server = some[link]  # pyright: ignore[reportArgumentType] - what comes out is what went in
                self._waiting.discard(server)
                yield server, self._received(server)

    def _received(self, server: int) -> Any:
        try:
            good, value = pickle.loads(self._links[server].recv_bytes())  # noqa: S301 - from a server that knows the key
        except _GONE as exc:
            raise UnavailableError(f"Parameter server {server} is gone.") from exc
        if not good:
            raise value
        return value

    def close(self) -> None:
        """See the base."""
        for link in self._links:
            link.close()
        if self._listening is not None:
            self._listening.close()
