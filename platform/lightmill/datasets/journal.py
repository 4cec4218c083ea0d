"""What an ingestion has finished, on disk, so that after a crash nothing finished is done again.

A file of frames: a header that names the draft (no secret), then one sealed frame for each finished piece of work.
Frames are under a key of the draft, which only a holder of the key ring can open, and are bound to their number, so
that none can be moved. A torn or foreign frame ends the journal: what stands behind it is done again.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lightmill.errors import ConflictError
from lightmill.registry import DraftId

MAGIC = b"lmjournal1\n"
NONCE_BYTES = 12
_LENGTH = struct.Struct("<I")
_NAME = struct.Struct("<HI")


class Journal:
    """An open journal; nobody else can open it meanwhile. `path` need not stay."""

    def __init__(self, path: Path, key: bytes, stream: IO[bytes]) -> None:
        self.path = path
        self._cipher = AESGCM(key)
        self._stream = stream
        self._frames: dict[tuple[str, int], tuple[int, int, int]] = {}
        self._count = 0
        self._read_frames()

    @classmethod
    def create(cls, path: Path, draft: DraftId, key: bytes) -> Journal:
        """Begin a journal of a draft at a path where there is none, or none of use."""
        stream = _locked(path, empty=True)
        header = draft.model_dump_json().encode()
        stream.write(MAGIC + _LENGTH.pack(len(header)) + header)
        stream.flush()
        return cls(path, key, stream)

    @classmethod
    def draft_of(cls, path: Path) -> DraftId | None:
        """Return the draft that a journal belongs to, None if there is no journal at the path."""
        try:
            with path.open("rb") as stream:
                head = _header(stream)
        except FileNotFoundError:
            return None
        return None if head is None else DraftId.model_validate_json(head)

    @classmethod
    def resume(cls, path: Path, key: bytes) -> Journal:
        """Open a journal that is there.

        Raises:
            ConflictError: Another job has it open.
        """
        return cls(path, key, _locked(path))

    @classmethod
    def discard(cls, path: Path) -> None:
        """Remove a journal that nobody has open.

        Raises:
            ConflictError: Somebody has.
        """
        with _locked(path):
            path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._frames)

    def has(self, name: str, number: int) -> bool:
        """Whether a piece of work is finished."""
        return (name, number) in self._frames

    def put(self, name: str, number: int, data: bytes) -> None:
        """Keep the result of a piece of work; it is on disk when this returns."""
        plain = _NAME.pack(len(name.encode()), number) + name.encode() + data
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, plain, self._bound(self._count))
        start = self._stream.seek(0, os.SEEK_END)
        self._stream.write(_LENGTH.pack(len(sealed)) + sealed)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._frames[name, number] = (start, len(sealed), self._count)
        self._count += 1

    def get(self, name: str, number: int) -> bytes:
        """Return the result of a finished piece of work."""
        start, length, count = self._frames[name, number]
        self._stream.seek(start + _LENGTH.size)
        plain = self._open(self._stream.read(length), count)
        if plain is None:
            raise ConflictError(f"The journal {self.path} was changed while it was read; run the job again.")
        return plain[1]

    def close(self) -> None:
        """Close the file; it stays."""
        self._stream.close()

    def remove(self) -> None:
        """Remove the file, of no more use."""
        self.path.unlink(missing_ok=True)
        self.close()

    def _read_frames(self) -> None:
        """Learn which frames there are, and cut off what follows the last good one."""
        self._stream.seek(0)
        _header(self._stream)
        end = self._stream.tell()
        size = os.fstat(self._stream.fileno()).st_size
        while end + _LENGTH.size <= size:
            (length,) = _LENGTH.unpack(self._stream.read(_LENGTH.size))
            opened = self._open(self._stream.read(length), self._count) if end + length <= size else None
            if opened is None:
                break
            self._frames[opened[0]] = (end, length, self._count)
            self._count += 1
            end = self._stream.tell()
        self._stream.truncate(end)

    def _open(self, sealed: bytes, count: int) -> tuple[tuple[str, int], bytes] | None:
        try:
            plain = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], self._bound(count))
        except (InvalidTag, ValueError):
            return None
        length, number = _NAME.unpack_from(plain)
        start = _NAME.size + length
        return (plain[_NAME.size : start].decode(), number), plain[start:]

    @staticmethod
    def _bound(count: int) -> bytes:
        return MAGIC + count.to_bytes(8, "little")


def _locked(path: Path, *, empty: bool = False) -> IO[bytes]:
    """Open a file that nobody else has open.

    Raises:
        ConflictError: Somebody has.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        stream.close()
        raise ConflictError(
            "Another job ingests the same files by the same specification now. Wait for it, or cancel it."
        ) from exc
    with suppress(FileNotFoundError):
        if os.fstat(stream.fileno()).st_ino == path.stat().st_ino:
            if empty:
                stream.truncate(0)
            return stream
    stream.close()
    raise ConflictError("Another job has just ended the same ingestion. Run it again if it is still wanted.")


def _header(stream: IO[bytes]) -> bytes | None:
    if stream.read(len(MAGIC)) != MAGIC:
        return None
    length = stream.read(_LENGTH.size)
    return stream.read(_LENGTH.unpack(length)[0]) if len(length) == _LENGTH.size else None
