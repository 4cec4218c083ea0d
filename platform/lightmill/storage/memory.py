"""A store in this process's memory: for tests, demonstrations and dry runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lightmill.errors import ConflictError, NotFoundError
from lightmill.storage.port import BlobStore, check_name, check_prefix, check_range, too_short

if TYPE_CHECKING:
    from typing_extensions import Buffer


class MemoryStore(BlobStore):
    """Keeps copies of all objects in a dictionary; gone with the process."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._objects)} objects)"

    @property
    def url(self) -> str:
        """Always "memory://"."""
        return "memory://"

    def create(self, name: str, data: Buffer) -> None:
        """Make an object; see the port."""
        check_name(name)
        copy = bytes(data)
        with self._lock:
            if name in self._objects:
                raise ConflictError(f"{name} exists already in {self.url}; objects are never overwritten")
            self._objects[name] = copy

    def get(self, name: str) -> bytes:
        """Return the whole object; see the port."""
        check_name(name)
        with self._lock:
            found = self._objects.get(name)
        if found is None:
            raise NotFoundError(f"There is no object {name} in {self.url}")
        return found

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return a part of the object; see the port."""
        check_range(offset, length)
        data = self.get(name)
        if offset + length > len(data):
            raise too_short(name, offset, length)
        return data[offset : offset + length]

    def read_into(self, name: str, offset: int, out: memoryview) -> None:
        """Fill a buffer; see the port."""
        part = self.get_range(name, offset, out.nbytes)
        if part:
            out.cast("B")[:] = part

    def head(self, name: str) -> int:
        """Return the size; see the port."""
        return len(self.get(name))

    def list(self, prefix: str) -> Iterator[str]:
        """Yield names; see the port."""
        check_prefix(prefix)
        with self._lock:
            names = sorted(self._objects)
        return (name for name in names if name.startswith(prefix))

    def delete(self, name: str) -> None:
        """Remove the object; see the port."""
        check_name(name)
        with self._lock:
            self._objects.pop(name, None)
