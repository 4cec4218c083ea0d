"""The files of a node's cache, and the locks by which its processes agree about them.

blobs/<digest> are complete copies; parts/<digest> are being fetched, each under an exclusive lock of its writer, so
that a part without a lock has a writer that died; `lock` is held while room is made.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class CacheFolder:
    """A folder of at most `limit_bytes`; errors of the file system come as they are (OSError)."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root = root.expanduser().absolute()
        self._limit_bytes = limit_bytes
        self._blobs = self.root / "blobs"
        self._parts = self.root / "parts"

    def use(self, digest: str) -> Path | None:
        """Return the copy's path and note that it was used; None if there is none."""
        path = self._blobs / digest
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def discard(self, digest: str) -> None:
        """Remove a copy."""
        with suppress(OSError):
            (self._blobs / digest).unlink()

    @contextmanager
    def part(self, digest: str) -> Iterator[int | None]:
        """Give the locked, empty file to fetch a blob into; None if another process has just fetched it."""
        self._prepare()
        path = self._parts / digest
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not _is(path, descriptor):
                    continue  # the one who held the lock has finished and removed the part
                try:
                    if (self._blobs / digest).exists():
                        yield None
                    else:
                        os.ftruncate(descriptor, 0)
                        yield descriptor
                finally:
                    with suppress(OSError):
                        path.unlink()
                return
            finally:
                os.close(descriptor)

    def make_room(self, descriptor: int, size: int) -> int:
        """Reserve `size` bytes for a part, removing the copies not used for longest; return how many these were.

        Raises:
            OSError: The blob is larger than the cache, or parts in the making take all the room.
        """
        if size > self._limit_bytes:
            raise OSError(errno.ENOSPC, f"a blob of {size} bytes exceeds the limit of {self._limit_bytes}")
        lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._sweep_parts(descriptor)
            free = self._limit_bytes - sum(found.st_size for _, found in _files(self._parts))
            copies = sorted(_files(self._blobs), key=lambda entry: entry[1].st_mtime_ns, reverse=True)
            free -= sum(found.st_size for _, found in copies)
            evicted = 0
            while free < size and copies:
                path, found = copies.pop()
                path.unlink(missing_ok=True)
                free += found.st_size
                evicted += 1
            if free < size:
                raise OSError(errno.ENOSPC, "other blobs that are being fetched fill it")
            os.ftruncate(descriptor, size)
            return evicted
        finally:
            os.close(lock)

    def _prepare(self) -> None:
        for folder in (self.root, self._blobs, self._parts):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.root.stat()
        if found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "the folder belongs to another user")
        if found.st_mode & 0o077:
            self.root.chmod(0o700)

    def enter(self, digest: str) -> None:
        """Make a complete part a copy."""
        with suppress(FileExistsError):
            os.link(self._parts / digest, self._blobs / digest)

    def _sweep_parts(self, mine: int) -> None:
        """Remove parts whose writer died: nobody holds their lock."""
        for path, found in _files(self._parts):
            if os.path.samestat(found, os.fstat(mine)):
                continue
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _is(path, descriptor):
                        path.unlink()
                finally:
                    os.close(descriptor)


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                found.append((Path(entry.path), entry.stat(follow_symlinks=False)))
    return found


def _is(path: Path, descriptor: int) -> bool:
    """Say whether the file at `path` is still the one that is open."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
