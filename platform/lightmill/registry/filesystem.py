"""A read-only pyarrow filesystem over one version, for whatever insists on a filesystem.

It shows the files of the version that lie in blobs, `model.safetensors` included, and decrypts what is read,
segment by segment, in memory: no plaintext touches a disk. It is the compatible path, not the fast one;
tensors load faster through `registry.tensors`. Encrypted Parquet files of a dataset are no files here: the
dataset readers hold their keys.

What pickles is where the registry is and which version: each process opens the key ring itself.
"""

from __future__ import annotations

import atexit
import io
import posixpath
import time
import weakref
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, PyFileSystem

from lightmill.records.references import VersionId
from lightmill.registry.opening import RegistryLocation
from lightmill.registry.version import OpenVersion

if TYPE_CHECKING:
    from typing_extensions import Buffer

WINDOW_BYTES = 1 << 20
"""What a small read fetches, so that a reader of single bytes does not decrypt a segment for each."""

EXIT_SECONDS = 5.0
"""How long an ending process waits for files that pyarrow's threads still hold."""


def sealed_filesystem(location: RegistryLocation, id: VersionId) -> PyFileSystem:
    """Return the filesystem of a version; paths are those of its manifest, without a slash before.

    Raises:
        NotFoundError: There is no such version, store or key ring.
        IntegrityError: Something stored is not what was written.
    """
    handler = SealedFiles(location, id)
    handler.version()
    return PyFileSystem(handler)


class SealedFiles(FileSystemHandler):
    """The files of one version as pyarrow sees them. A missing file is FileNotFoundError, as pyarrow expects."""

    def __init__(self, location: RegistryLocation, id: VersionId) -> None:
        self._location = location
        self._id = id

    def __reduce__(self) -> tuple[Any, ...]:
        return SealedFiles, (self._location, self._id)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SealedFiles):
            return NotImplemented
        return (self._location, self._id) == (other._location, other._id)

    def __hash__(self) -> int:
        return hash((self._location, self._id))

    def version(self) -> OpenVersion:
        """Return the version, opened once in each process."""
        return _open(self._location, self._id)  # pyright: ignore[reportArgumentType] - frozen records hash

    def get_type_name(self) -> str:
        """Return the name that pyarrow shows."""
        return "lightmill"

    def normalize_path(self, path: str) -> str:
        """Return the path as the manifest spells it."""
        return posixpath.normpath("/" + path).strip("/")

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        """Return type and size of each path."""
        return [self._info(self.normalize_path(path)) for path in paths]

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        """Return what lies below a folder.

        Raises:
            FileNotFoundError: There is no such folder.
        """
        base = self.normalize_path(selector.base_dir)
        found = set(self._below(base, selector.recursive))
        if not found and base and self._info(base).type != FileType.Directory and not selector.allow_not_found:
            raise FileNotFoundError(f"{self._id} has no folder {base!r}")
        return [self._info(path) for path in sorted(found)]

    def open_input_file(self, path: str) -> pa.PythonFile:
        """Open a file for random reading.

        Raises:
            FileNotFoundError: The version has no such file.
        """
        path = self.normalize_path(path)
        sizes = self._sizes()
        if path not in sizes:
            raise FileNotFoundError(f"{self._id} holds no file {path!r} that can be read as it is")
        return pa.PythonFile(SealedFile(self.version(), path, sizes[path]), mode="r")

    def open_input_stream(self, path: str) -> pa.PythonFile:
        """Open a file for reading from its start; as `open_input_file`."""
        return self.open_input_file(path)

    def create_dir(self, path: str, recursive: bool) -> NoReturn:
        """Refuse; a version is immutable."""
        self._refuse()

    def delete_dir(self, path: str) -> NoReturn:
        """Refuse; a version is immutable."""
        self._refuse()

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> NoReturn:
        """Refuse; a version is immutable."""
        self._refuse()

    def delete_root_dir_contents(self) -> NoReturn:
        """Refuse; a version is immutable."""
        self._refuse()

    def delete_file(self, path: str) -> NoReturn:
        """Refuse; a version is immutable."""
        self._refuse()

    def move(self, src: str, dest: str) -> NoReturn:
        """Refuse; a version is immutable."""
        self._refuse()

    def copy_file(self, src: str, dest: str) -> NoReturn:
        """Refuse; a version is immutable."""
        self._refuse()

    def open_output_stream(self, path: str, metadata: object) -> NoReturn:
        """Refuse; a version is immutable."""
        self._refuse()

    def open_append_stream(self, path: str, metadata: object) -> NoReturn:
        """Refuse; a version is immutable."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise PermissionError(f"{self._id} is immutable; publish a new version instead")

    def _sizes(self) -> dict[str, int]:
        return {file.path: file.size for file in self.version().manifest.files if file.object is None}

    def _below(self, base: str, recursive: bool) -> Iterator[str]:
        prefix = base + "/" if base else ""
        for path in self._sizes():
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            if len(parts) == 1 or recursive:
                yield path
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                yield prefix + "/".join(parts[:depth])

    def _info(self, path: str) -> FileInfo:
        sizes = self._sizes()
        if path in sizes:
            return FileInfo(path, FileType.File, size=sizes[path])
        if not path or any(name.startswith(path + "/") for name in sizes):
            return FileInfo(path, FileType.Directory)
        return FileInfo(path, FileType.NotFound)


class SealedFile(io.RawIOBase):
    """One file, read through a window; whatever it returns was authenticated."""

    def __init__(self, version: OpenVersion, path: str, size: int) -> None:
        super().__init__()
        self._version = version
        self._path = path
        self._size = size
        self._at = 0
        self._window = 0, b""
        _held.add(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("An open file of the vault does not pickle; pickle the filesystem and open it there")

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"{self._path} has no position {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, out: Buffer) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Fill as much of `out` as the file has; return the number of bytes.

        Raises:
            IntegrityError: Stored bytes are not what was written; `out` holds zeros.
        """
        view = memoryview(out).cast("B")
        length = max(0, min(view.nbytes, self._size - self._at))
        view = view[:length]
        if length >= WINDOW_BYTES:
            self._version.read_range(self._path, self._at, view)
        elif length:
            self._from_window(view)
        self._at += length
        return length

    def _from_window(self, view: memoryview) -> None:
        start, data = self._window
        if not start <= self._at or self._at + view.nbytes > start + len(data):
            start = self._at
            room = bytearray(min(WINDOW_BYTES, self._size - start))
            self._version.read_range(self._path, start, memoryview(room))
            data = bytes(room)
            self._window = start, data
        view[:] = data[self._at - start : self._at - start + view.nbytes]


@lru_cache(maxsize=32)
def _open(location: RegistryLocation, id: VersionId) -> OpenVersion:
    return location.open().open(id)


_held: weakref.WeakSet[SealedFile] = weakref.WeakSet()


@atexit.register
def _await_release() -> None:
    """Wait until pyarrow's threads have let go of every file.

    They drop their last reference to a file after the reader has its answer, and need the interpreter's lock for it: a
    thread that asks for the lock of an interpreter that is ending is unwound by force, through C++ that aborts then.
    """
    until = time.monotonic() + EXIT_SECONDS
    while len(_held) and time.monotonic() < until:
        time.sleep(0.001)
