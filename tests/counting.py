"""A store in memory that counts what is asked of it, for tests of how much and how often is read."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lightmill.storage import BlobStore, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Buffer


@dataclass
class Counts:
    reads: list[tuple[str, int, int]] = field(default_factory=list)
    heads: int = 0
    created: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(length for _, _, length in self.reads)

    def of(self, prefix: str) -> int:
        return sum(length for name, _, length in self.reads if name.startswith(prefix))


class CountingStore(BlobStore):
    """Passes everything on to another store and notes it; `before_read` may raise or wait."""

    def __init__(self, inner: BlobStore | None = None) -> None:
        self.inner = inner or MemoryStore()
        self.counts = Counts()
        self.before_read: Callable[[str], None] = lambda _: None
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self.inner.url

    def create(self, name: str, data: Buffer) -> None:
        with self._lock:
            self.counts.created.append(name)
        self.inner.create(name, data)

    def get(self, name: str) -> bytes:
        data = self.inner.get(name)
        self._note(name, 0, len(data))
        return data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self._note(name, offset, length)
        return self.inner.get_range(name, offset, length)

    def read_into(self, name: str, offset: int, out: memoryview) -> None:
        self._note(name, offset, out.nbytes)
        self.inner.read_into(name, offset, out)

    def head(self, name: str) -> int:
        with self._lock:
            self.counts.heads += 1
        return self.inner.head(name)

    def list(self, prefix: str) -> Iterator[str]:
        return self.inner.list(prefix)

    def delete(self, name: str) -> None:
        self.inner.delete(name)

    def forget(self) -> None:
        self.counts = Counts()

    def _note(self, name: str, offset: int, length: int) -> None:
        self.before_read(name)
        with self._lock:
            self.counts.reads.append((name, offset, length))
