"""A cache of sealed blobs on this node, in front of a store: what one replica has read, the others find here.

It holds ciphertext only, under the names of the store (the SHA-256 of the bytes), in a folder of its owner alone.
Any number of processes share it:

* A blob enters complete and with the right digest: it is fetched into parts/<digest>, hashed on the way, and linked
  to blobs/<digest>. Whoever fetches holds a lock on the part; the others wait for it and then read the same file.
  A part whose writer died is locked by nobody and is fetched anew.
* Before a fetch, the blobs that were not used for longest make room, under one lock; parts count with the size that
  they will have. A blob that is removed while somebody reads it stays readable for him.
* A copy that was damaged afterwards is found by its size or by the cipher's tags, removed, and fetched once more.

When the cache cannot be written (disk full, no permission), reads pass through to the store.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightmill.errors import IntegrityError, NotFoundError, UnavailableError
from lightmill.registry.cache_folder import CacheFolder
from lightmill.registry.planning import PART_BYTES
from lightmill.registry.sources import BlobSource, FileSource, StoreSource
from lightmill.storage import BlobStore
from lightmill.vault import HEADER_BYTES

if TYPE_CHECKING:
    from typing_extensions import Buffer

WHOLE_BYTES = 8 << 20
WHOLE_SHARE = 0.25
REMEMBERED_SIZES = 4096
ATTEMPTS = 3
_SEALED = re.compile(r"[bm]/([0-9a-f]{2})/(\1[0-9a-f]{62})")
logger = logging.getLogger("lightmill.registry.cache")


def fetch_whole(size: int, wanted: int) -> bool:
    """Say whether to fetch a blob of `size` bytes into the cache when `wanted` bytes of it are needed.

    Who looks at no more than a header does not read the blob.
    """
    return wanted > HEADER_BYTES and (size <= WHOLE_BYTES or wanted > size * WHOLE_SHARE)


@dataclass(slots=True, kw_only=True)
class CacheCounts:
    """What happened since this process opened the cache."""

    hits: int = 0
    fetches: int = 0
    fetched_bytes: int = 0
    passed_reads: int = 0
    damaged: int = 0
    evicted: int = 0


class CachingStore(BlobStore):
    """Reads blobs and manifests through a folder; everything else, and all writing, goes to the store behind it.

    Args:
        inner: The store behind.
        folder: Where the copies are; made with mode 0700.
        limit_bytes: The most that the folder holds; larger blobs pass through.
    """

    def __init__(self, inner: BlobStore, folder: str | Path, limit_bytes: int) -> None:
        self.inner = inner
        self.counts = CacheCounts()
        self._folder = CacheFolder(Path(folder), limit_bytes)
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()
        self._buffers = threading.local()

    def __repr__(self) -> str:
        return f"CachingStore({self.inner!r}, {str(self._folder.root)!r})"

    @property
    def url(self) -> str:
        """That of the store behind."""
        return self.inner.url

    def create(self, name: str, data: Buffer) -> None:
        """Make an object in the store behind; see the port."""
        self.inner.create(name, data)

    def get(self, name: str) -> bytes:
        """Return the whole object; a copy is compared with its digest first. See the port."""
        digest = _digest_of(name)
        for _ in range(2 if digest else 0):
            source = self._cached(name, digest or "", None)
            if source is None:
                break
            with closing(source):
                data = bytearray(source.size)
                source.read_into(0, memoryview(data))
            if source.verified or hashlib.sha256(data).hexdigest() == digest:
                return bytes(data)
            self._discard(digest or "")
        return self.inner.get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return a part of the object; from a copy it is not verified here, as nothing in the port is."""
        if _digest_of(name) is None or not 0 <= offset <= self._size(name) - length or length < 0:
            return self.inner.get_range(name, offset, length)  # it knows what is wrong with the range
        part = bytearray(length)
        self.read_into(name, offset, memoryview(part))
        return bytes(part)

    def read_into(self, name: str, offset: int, out: memoryview) -> None:
        """Fill a buffer; see `get_range` and the port."""
        digest = _digest_of(name)
        size = self._size(name) if digest else 0
        if digest is None or not 0 <= offset <= size - out.nbytes:
            self.inner.read_into(name, offset, out)
            return
        with closing(self._open(name, digest, size, out.nbytes)) as source:
            if source.size == size:
                source.read_into(offset, out.cast("B") if out.nbytes else out)
                return
        self._discard(digest)
        self.inner.read_into(name, offset, out)

    def head(self, name: str) -> int:
        """Return the size by the store behind, which alone knows whether the object is still there; see the port."""
        return self.inner.head(name)

    def _size(self, name: str) -> int:
        """Return the size of a sealed object, asked once: it never changes."""
        with self._lock:
            if name in self._sizes:
                self._sizes.move_to_end(name)
                return self._sizes[name]
        size = self.inner.head(name)
        with self._lock:
            self._sizes[name] = size
            if len(self._sizes) > REMEMBERED_SIZES:
                self._sizes.popitem(last=False)
        return size

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the names of the store behind; see the port."""
        return self.inner.list(prefix)

    def delete(self, name: str) -> None:
        """Remove the object from the store behind, and the copy; see the port."""
        self.inner.delete(name)
        digest = _digest_of(name)
        if digest:
            self._folder.discard(digest)
            with self._lock:
                self._sizes.pop(name, None)

    def open_source(self, name: str, size: int, wanted: int) -> BlobSource:
        """Return a copy's source, or requests to the store if so little is wanted; see `sources`."""
        digest = _digest_of(name)
        if digest is None:
            return StoreSource(self.inner, name)
        return self._open(name, digest, size, wanted)

    def refetch(self, name: str, digest: str) -> BlobSource:
        """Remove a damaged copy and return the source of a fresh one, or of the store behind."""
        self._discard(digest)
        return self._cached(name, digest, None) or StoreSource(self.inner, name)

    def _open(self, name: str, digest: str, size: int, wanted: int) -> BlobSource:
        held = self._held(name, digest)
        if held is None and fetch_whole(size, wanted):
            held = self._cached(name, digest, size)
        if held is None:
            self._count(passed_reads=1)
            return StoreSource(self.inner, name)
        return held

    def _held(self, name: str, digest: str, *, verified: bool = False) -> _Copy | None:
        path = self._folder.use(digest)
        if path is None:
            return None
        try:
            source = _Copy(self, name, digest, path, verified)
        except (NotFoundError, UnavailableError):  # evicted just now, or not ours to read
            return None
        self._count(hits=int(not verified))
        return source

    def _cached(self, name: str, digest: str, size: int | None) -> _Copy | None:
        """Return the source of a copy, after fetching it if need be; None if the cache cannot take it."""
        fetched = False
        for _ in range(ATTEMPTS):
            held = self._held(name, digest, verified=fetched)
            if held:
                return held
            try:
                fetched = self._fetch(name, digest, self._size(name) if size is None else size)
            except OSError as exc:
                logger.warning("the cache %s cannot be used (%s); reading from the store", self._folder.root, exc)
                return None
        return None

    def _fetch(self, name: str, digest: str, size: int) -> bool:
        """Bring a blob into the cache; False if another process has done so meanwhile.

        Raises:
            OSError: The cache has no room, or cannot be written.
        """
        with self._folder.part(digest) as descriptor:
            if descriptor is None:
                return False
            evicted = self._folder.make_room(descriptor, size)
            self._count(evicted=evicted)
            self._copy(name, digest, size, descriptor)
            self._folder.enter(digest)
            self._count(fetches=1, fetched_bytes=size)
            return True

    def _copy(self, name: str, digest: str, size: int, descriptor: int) -> None:
        if not hasattr(self._buffers, "memory"):
            self._buffers.memory = bytearray(PART_BYTES)
        source = StoreSource(self.inner, name)
        if source.size != size:
            raise IntegrityError(
                f"Object {name} has {source.size} bytes where its version says {size}; it was truncated or replaced. "
                "Restore it from a backup."
            )
        found = hashlib.sha256()
        for offset in range(0, size, PART_BYTES):
            part = memoryview(self._buffers.memory)[: min(PART_BYTES, size - offset)]
            source.read_into(offset, part)
            found.update(part)
            done = 0
            while done < part.nbytes:
                done += os.pwrite(descriptor, part[done:], offset + done)
        if found.hexdigest() != digest:
            raise IntegrityError(
                f"{name} was refused: its bytes do not have the digest that is its name. Restore it from a backup."
            )

    def _discard(self, digest: str) -> None:
        self._folder.discard(digest)
        self._count(damaged=1)

    def _count(self, **more: int) -> None:
        with self._lock:
            for field, count in more.items():
                setattr(self.counts, field, getattr(self.counts, field) + count)


class _Copy(FileSource):
    """A copy in the cache; if it turns out damaged it is fetched once more."""

    def __init__(self, cache: CachingStore, name: str, digest: str, path: Path, verified: bool) -> None:
        super().__init__(name, path)
        self.verified = verified
        self._cache = cache
        self._digest = digest

    def renew(self) -> BlobSource | None:
        """Return the source of a fresh copy; IntegrityError if the store behind has lost the object."""
        try:
            return _Last(self._cache.refetch(self._name, self._digest))
        except NotFoundError as exc:
            raise IntegrityError(f"Object {self._name} is missing from {self._cache.url}.") from exc


class _Last(BlobSource):
    """A source after which there is no other: it came from the store just now."""

    def __init__(self, source: BlobSource) -> None:
        self._source = source
        self.size = source.size
        self.piecemeal = source.piecemeal

    def read_into(self, offset: int, out: memoryview) -> None:
        self._source.read_into(offset, out)

    def view(self, offset: int, length: int, room: Callable[[int], memoryview]) -> memoryview:
        return self._source.view(offset, length, room)

    def close(self) -> None:
        self._source.close()


def _digest_of(name: str) -> str | None:
    found = _SEALED.fullmatch(name)
    return found.group(2) if found else None
