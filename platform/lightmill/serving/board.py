"""A small table that every process of the platform reads and writes: keys to replicas, measurements from them.

It is Ray's own key-value table, kept by its head: no process more, and it reaches every node. What stands there may be
lost with the head, so whoever writes writes again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from lightmill.errors import UnavailableError


class Board(ABC):
    """Names and bytes. Every method may be repeated after `UnavailableError`, which means that it does not answer."""

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """Return what was put last; None if nothing was, or it was lost."""

    @abstractmethod
    def put(self, name: str, value: bytes) -> None:
        """Replace what is there."""

    @abstractmethod
    def names(self, prefix: str) -> list[str]:
        """Return the names that begin so."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a name, if it is there."""


class MemoryBoard(Board):
    """A board inside one process."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        """Return what was put."""
        return self._values.get(name)

    def put(self, name: str, value: bytes) -> None:
        """Keep a value."""
        self._values[name] = value

    def names(self, prefix: str) -> list[str]:
        """Return the names."""
        return [name for name in self._values if name.startswith(prefix)]

    def delete(self, name: str) -> None:
        """Forget a value."""
        self._values.pop(name, None)


class RayBoard(Board):
    """Ray's key-value table (ray.experimental.internal_kv, which Serve uses too), in a namespace of ours."""

    NAMESPACE = b"lightmill"

    def get(self, name: str) -> bytes | None:
        """Ask Ray's head."""
        return self._call("_internal_kv_get", name.encode())

    def put(self, name: str, value: bytes) -> None:
        """Tell Ray's head."""
        self._call("_internal_kv_put", name.encode(), value, overwrite=True)

    def names(self, prefix: str) -> list[str]:
        """Ask Ray's head."""
        return [name.decode() for name in self._call("_internal_kv_list", prefix.encode())]

    def delete(self, name: str) -> None:
        """Tell Ray's head."""
        self._call("_internal_kv_del", name.encode())

    def _call(self, function: str, *arguments: bytes, **options: object) -> Any:
        from ray.experimental import internal_kv

        try:
            return getattr(internal_kv, function)(*arguments, **options, namespace=self.NAMESPACE)
        except Exception as exc:
            raise UnavailableError(f"Ray's head does not answer: {exc}.") from exc
