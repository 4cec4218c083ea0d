"""Where the bytes of one object come from while it is loaded: a file that stays open, or requests to a store."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from lightmill.errors import IntegrityError, NotFoundError, UnavailableError
from lightmill.storage import BlobStore, LocalStore


class BlobSource(ABC):
    """Reads one object, from any thread.

    Attributes:
        size: Of the whole object, in bytes.
        piecemeal: Whether small reads cost no more than large ones, as from a file.
    """

    size: int
    piecemeal: bool

    @abstractmethod
    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `offset` on.

        Raises:
            IntegrityError: The object is gone, or ends before `out` is full.
            UnavailableError: The store does not answer.
        """

    def view(self, offset: int, length: int, room: Callable[[int], memoryview]) -> memoryview:
        """Return `length` bytes from `offset` on, in memory from `room` or in memory that the answer came in.

        They are valid until `room` is called again; see `read_into` for the errors.
        """
        out = room(length)
        self.read_into(offset, out)
        return out

    def renew(self) -> BlobSource | None:
        """Return another copy's source, when this copy turned out damaged; None if there is no other."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open; once more does nothing."""


@runtime_checkable
class OpensSources(Protocol):
    """A store that chooses by itself where an object is read from, such as a cache."""

    def open_source(self, name: str, size: int, wanted: int) -> BlobSource:
        """Return the source of an object of `size` bytes, of which `wanted` will be read."""
        ...


class FileSource(BlobSource):
    """A file, opened once.

    Raises:
        NotFoundError: There is no such file.
        UnavailableError: It cannot be opened.
    """

    piecemeal = True

    def __init__(self, name: str, path: Path) -> None:
        self._name = name
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise NotFoundError(f"There is no object at {path}") from exc
        except OSError as exc:
            raise self._unreadable(exc) from exc
        self.size = os.fstat(self._descriptor).st_size

    def read_into(self, offset: int, out: memoryview) -> None:
        """Read with `preadv`; see the class above."""
        done, length = 0, out.nbytes
        while done < length:
            try:
                count = os.preadv(self._descriptor, [out[done:] if done else out], offset + done)
            except OSError as exc:
                raise self._unreadable(exc) from exc
            if not count:
                raise IntegrityError(f"Object {self._name} ends too early; it was truncated. Restore it from a backup.")
            done += count

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _unreadable(self, exc: OSError) -> UnavailableError:
        return UnavailableError(f"{self._path} cannot be read ({exc.strerror}); check the file system, then try again.")


class StoreSource(BlobSource):
    """Requests to a store; opening asks for the size.

    Raises:
        NotFoundError: There is no such object.
        UnavailableError: The store does not answer.
    """

    piecemeal = False

    def __init__(self, store: BlobStore, name: str) -> None:
        self._store = store
        self._name = name
        self.size = store.head(name)

    def read_into(self, offset: int, out: memoryview) -> None:
        """Ask for a range; see the class above."""
        try:
            self._store.read_into(self._name, offset, out)
        except NotFoundError as exc:
            raise IntegrityError(f"Object {self._name} is missing from {self._store.url}.") from exc

    def view(self, offset: int, length: int, room: Callable[[int], memoryview]) -> memoryview:
        """Take the answer as it came; see the class above."""
        try:
            found = self._store.get_view(self._name, offset, length)
        except NotFoundError as exc:
            raise IntegrityError(f"Object {self._name} is missing from {self._store.url}.") from exc
        if found.nbytes != length:
            raise UnavailableError(f"The store gave {found.nbytes} bytes of {self._name}, not {length}; try again.")
        return found

    def close(self) -> None:
        """Nothing is open between requests."""


def open_source(store: BlobStore, name: str, size: int, wanted: int) -> BlobSource:
    """Return the source of an object that should have `size` bytes, of which `wanted` will be read.

    Raises:
        IntegrityError: The object is missing.
        UnavailableError: The store does not answer.
    """
    try:
        if type(store) is LocalStore:  # a subclass may read in its own way
            return FileSource(name, store.path(name))
        if isinstance(store, OpensSources):
            return store.open_source(name, size, wanted)
        return StoreSource(store, name)
    except NotFoundError as exc:
        raise IntegrityError(f"Object {name} is missing from {store.url}; restore it from a backup.") from exc
