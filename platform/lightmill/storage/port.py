"""The port: bytes under names that are written once."""

from __future__ import annotations

import re
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from lightmill.errors import ConflictError, IntegrityError, RequestError, UnavailableError

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_NAME_CHARS = 512
TEMPORARY = "tmp"
"""The first part that no name may have: adapters keep unfinished objects there."""

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_PREFIX = re.compile(rf"(?:{_PART}/)*(?:{_PART})?")
_PROBE_THREADS = 8
_PROBE_ROUNDS = 3


class BlobStore(ABC):
    """Immutable objects under unique names. Every method may be called from any thread.

    Names are parts of [A-Za-z0-9._-] joined by "/", as in "b/ab/abcd"; a part starts with a letter, a digit
    or "_", and the first part is not "tmp". No name may be a folder of another ("a" beside "a/b").
    """

    @property
    @abstractmethod
    def url(self) -> str:
        """Where the store is, in the form that `open_store` takes; holds no secret."""

    @abstractmethod
    def create(self, name: str, data: Buffer) -> None:
        """Make an object: at once, completely and durably when this returns, and only if the name is free.

        Raises:
            ConflictError: When the name exists; the object is as it was. After a retry this may be the
                caller's own earlier attempt: fetch it and compare before declaring a loss.
            UnavailableError: When the store does not answer or is full. The object may exist or not, but
                never in part. A retry is allowed.
            RequestError: When the name has not the form above.
        """

    @abstractmethod
    def get(self, name: str) -> bytes:
        """Return the whole object.

        Raises:
            NotFoundError: When there is no such object.
            UnavailableError: When the store does not answer; a retry is allowed.
            RequestError: When the name has not the form above.
        """

    @abstractmethod
    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset` on.

        Raises:
            NotFoundError: When there is no such object.
            IntegrityError: When the object ends before the range does.
            UnavailableError: When the store does not answer; a retry is allowed.
            RequestError: When offset or length is negative, or the name has not the form above.
        """

    def get_view(self, name: str, offset: int, length: int) -> memoryview:
        """Return what `get_range` does, in the memory that the answer came in where a client hands that out."""
        return memoryview(self.get_range(name, offset, length))

    @abstractmethod
    def read_into(self, name: str, offset: int, out: memoryview) -> None:
        """Fill `out`, writable and contiguous, with the bytes from `offset` on.

        After an error `out` holds anything.

        Raises:
            NotFoundError: When there is no such object.
            IntegrityError: When the object ends before `out` is full.
            UnavailableError: When the store does not answer; a retry is allowed.
            RequestError: When offset is negative, or the name has not the form above.
        """

    @abstractmethod
    def head(self, name: str) -> int:
        """Return the size of the object in bytes.

        Raises:
            NotFoundError: When there is no such object.
            UnavailableError: When the store does not answer; a retry is allowed.
            RequestError: When the name has not the form above.
        """

    @abstractmethod
    def list(self, prefix: str) -> Iterator[str]:
        """Yield every name that starts with `prefix`, sorted by code point; "" lists the whole store.

        An object that is made or deleted meanwhile may be listed or not; all others are.

        Raises:
            UnavailableError: When the store does not answer; a retry, from the start, is allowed.
            RequestError: When the prefix is not the beginning of a name.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove the object, durably. Removing what does not exist is no error, so that a retry is safe.

        Raises:
            UnavailableError: When the store does not answer; a retry is allowed.
            RequestError: When the name has not the form above.
        """

    def probe(self) -> None:
        """Find out whether `create` keeps its promise here, by making names twice, also from several threads.

        Raises:
            UnavailableError: When more or fewer than one attempt won, or the winner's bytes are not what is
                stored: such a store would lose commits. Also when the store does not answer.
        """
        for _ in range(_PROBE_ROUNDS):
            name = f"probe/{secrets.token_hex(16)}"
            try:
                self._probe_once(name)
            finally:
                self.delete(name)

    def _probe_once(self, name: str) -> None:
        ready = threading.Barrier(_PROBE_THREADS)

        def attempt(data: bytes) -> bool:
            ready.wait()
            return self._wins(name, data)

        attempts = [b"%d" % i for i in range(_PROBE_THREADS)]
        with ThreadPoolExecutor(_PROBE_THREADS) as pool:
            won = [data for data, wins in zip(attempts, pool.map(attempt, attempts), strict=True) if wins]
        if len(won) != 1 or self._wins(name, b"late") or self.get(name) != won[0]:
            raise UnavailableError(
                f"The store at {self.url} does not create objects atomically: of {_PROBE_THREADS} attempts "
                f"to make one name {len(won)} succeeded, or a later one replaced it. Writing here could lose "
                "commits; use a file system or an object store with conditional creation"
            )

    def _wins(self, name: str, data: bytes) -> bool:
        try:
            self.create(name, data)
        except ConflictError:
            return False
        return True


def check_name(name: str) -> str:
    """Return the name when it has the form that every store accepts.

    Raises:
        RequestError: When it is empty or too long, holds "..", an odd character or an empty part, or lies
            in "tmp".
    """
    if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name) or name.split("/", 1)[0] == TEMPORARY:
        raise RequestError(
            f"{name[:MAX_NAME_CHARS]!r} is no object name; use parts of letters, digits, '.', '_' and '-', "
            f"joined by '/', at most {MAX_NAME_CHARS} characters, not below '{TEMPORARY}/'"
        )
    return name


def check_prefix(prefix: str) -> str:
    """Return the prefix when a name could begin with it.

    Raises:
        RequestError: When no name can.
    """
    if len(prefix) > MAX_NAME_CHARS or not _PREFIX.fullmatch(prefix):
        raise RequestError(f"{prefix[:MAX_NAME_CHARS]!r} is not the beginning of an object name; see check_name")
    return prefix


def check_range(offset: int, length: int) -> None:
    """Return when a range can exist.

    Raises:
        RequestError: When offset or length is negative.
    """
    if offset < 0 or length < 0:
        raise RequestError(f"A range starts at 0 or later and is not negative: offset {offset}, length {length}")


def too_short(name: str, offset: int, length: int) -> IntegrityError:
    """Return the error that says that an object ended before a range did."""
    return IntegrityError(
        f"{name} ends before byte {offset + length}: it is shorter than what was written. "
        "Restore it from a replica or a backup"
    )
