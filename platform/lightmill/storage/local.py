"""A store in a local directory, one file per object.

An object is written to root/tmp under a random name, made durable, and then linked to its final name: link
fails when the name exists, so two writers cannot both win, and no reader ever sees half an object. Rename
would overwrite, O_EXCL on the final name would show an unfinished file. The directory is made durable
before `create` returns, and so is every directory above it that this process uses for the first time. A
writer that is killed leaves at most a file in root/tmp, which nobody lists.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lightmill.errors import ConflictError, NotFoundError, RequestError, UnavailableError
from lightmill.storage.port import (
    TEMPORARY,
    BlobStore,
    check_name,
    check_prefix,
    check_range,
    too_short,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

_REMEDIES = {
    errno.ENOSPC: "free some space on that file system",
    errno.EDQUOT: "free some space or raise the quota",
    errno.EROFS: "the file system is read-only; mount it for writing or choose another path",
    errno.EACCES: "give this user the right to read and write there",
    errno.EPERM: "the file system refuses hard links or this user; choose another path",
    errno.EIO: "the disk reports an error; check it before anything else",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalStore(BlobStore):
    """Keeps each object in a file of its own below `root`, which is made with the first object.

    Args:
        root: The directory.
        mode: Permissions of directories that the store makes; files get the same without execution.
        fsync: What makes an open file or directory durable; tests pass one that records or fails.
    """

    def __init__(self, root: str | Path, *, mode: int = 0o700, fsync: Callable[[int], None] = os.fsync) -> None:
        self._root = Path(root).absolute()
        self._mode = mode
        self._fsync = fsync
        self._durable: set[Path] = set()

    def __repr__(self) -> str:
        return f"LocalStore({str(self._root)!r})"

    @property
    def url(self) -> str:
        """The directory as a file:// URL."""
        return self._root.as_uri()

    def path(self, name: str) -> Path:
        """Return the file that holds the object, for readers that open it themselves; only this store has it.

        Raises:
            RequestError: When the name has not the form of the port.
        """
        return self._root / check_name(name)

    def create(self, name: str, data: Buffer) -> None:
        """Make an object; see the port."""
        path = self.path(name)
        with _translated(path):
            try:
                self._make_directory(self._root / TEMPORARY)
                self._make_directory(path.parent)
                self._write_and_link(path, data)
            except NotADirectoryError as exc:
                raise RequestError(f"{path} cannot be made: a part of its name is an object") from exc
            except FileNotFoundError as exc:
                self._durable.clear()
                raise UnavailableError(f"A directory of {path} was removed meanwhile; try again") from exc

    def get(self, name: str) -> bytes:
        """Return the whole object; see the port."""
        path = self.path(name)
        with _translated(path):
            return path.read_bytes()

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return a part of the object; see the port."""
        check_range(offset, length)
        if offset + length > self.head(name):  # before the room is allocated
            raise too_short(name, offset, length)
        part = bytearray(length)
        self.read_into(name, offset, memoryview(part))
        return bytes(part)

    def read_into(self, name: str, offset: int, out: memoryview) -> None:
        """Fill a buffer straight from the file; see the port."""
        check_range(offset, out.nbytes)
        path = self.path(name)
        room = out.cast("B") if out.nbytes else out
        with _translated(path), path.open("rb", buffering=0) as file:
            done = 0
            while done < room.nbytes:
                count = os.preadv(file.fileno(), [room[done:]], offset + done)
                if not count:
                    raise too_short(name, offset, room.nbytes)
                done += count

    def head(self, name: str) -> int:
        """Return the size; see the port."""
        path = self.path(name)
        with _translated(path):
            if path.is_dir():
                raise IsADirectoryError
            return path.stat().st_size

    def list(self, prefix: str) -> Iterator[str]:
        """Yield names, one directory in memory at a time; see the port."""
        folder = check_prefix(prefix).rpartition("/")[0]
        return self._walk(f"{folder}/" if folder else "", prefix)

    def delete(self, name: str) -> None:
        """Remove the object; see the port."""
        path = self.path(name)
        with _translated(path), suppress(*_ABSENT):
            path.unlink(missing_ok=True)
            self._sync_directory(path.parent)  # also when it was absent: an earlier attempt may have failed here

    def _walk(self, folder: str, prefix: str) -> Iterator[str]:
        path = self._root / folder
        if folder.startswith(f"{TEMPORARY}/"):
            return
        try:
            with _translated(path), os.scandir(path) as entries:
                found = [entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries]
        except NotFoundError:  # never made, or gone meanwhile
            return
        for name in sorted(found):  # with "/" after folders, so that whole names come out in order
            full = folder + name
            if not full.startswith(prefix):
                continue
            if name.endswith("/"):
                yield from self._walk(full, prefix)
            else:
                yield full

    def _write_and_link(self, path: Path, data: Buffer) -> None:
        temporary = self._root / TEMPORARY / f"tmp-{secrets.token_hex(16)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, self._mode & 0o666)
        try:
            _write_all(descriptor, data)
            self._fsync(descriptor)
            self._link(descriptor, temporary, path)
            self._sync_directory(path.parent)
        finally:
            os.close(descriptor)
            with suppress(OSError):
                temporary.unlink()

    def _link(self, descriptor: int, temporary: Path, path: Path) -> None:
        try:
            os.link(temporary, path)
        except FileExistsError as exc:
            if os.fstat(descriptor).st_nlink > 1:  # a network file system answered its own repetition
                return
            raise ConflictError(f"{path} exists already; objects are never overwritten") from exc

    def _make_directory(self, directory: Path) -> None:
        """Make a directory and, once per process, make it durable: its maker may not have done so yet."""
        if directory in self._durable:
            return
        if directory == self._root:
            self._make_root()
        else:
            self._make_directory(directory.parent)
            with suppress(FileExistsError):
                directory.mkdir(mode=self._mode)
            self._sync_directory(directory.parent)
        self._durable.add(directory)

    def _make_root(self) -> None:
        missing = [path for path in (self._root, *self._root.parents) if not path.exists()]
        for directory in reversed(missing):
            with suppress(FileExistsError):
                directory.mkdir(mode=self._mode)
            self._sync_directory(directory.parent)

    def _sync_directory(self, directory: Path) -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: Buffer) -> None:
    view = memoryview(data)
    rest = view.cast("B") if view.nbytes else memoryview(b"")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into those of the port."""
    try:
        yield
    except _ABSENT as exc:
        raise NotFoundError(f"There is no object at {path}") from exc
    except OSError as exc:
        remedy = _REMEDIES.get(exc.errno or 0, "check the file system and try again")
        reason = exc.strerror or type(exc).__name__
        raise UnavailableError(f"The file system refuses {path} ({reason}): {remedy}") from exc
