"""Errors of Arrow, archives and the system, translated once: theirs, ours, or the file's."""

from __future__ import annotations

import errno
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from lightmill.errors import NotFoundError, UnavailableError

DAMAGE = (
    pa.ArrowException,
    OSError,
    EOFError,
    UnicodeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
    ValueError,
)
"""What reading a damaged file raises."""
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_AWAY = (
    errno.EACCES,
    errno.EPERM,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.EIO,
)
_SERVICES = ("AWS Error", "google::cloud", "HDFS")


class DamageError(ValueError):
    """A file is not what its format says; the message says how and holds no value."""


@contextmanager
def reading_errors(path: str) -> Iterator[list[str]]:
    """Put what is wrong with a file's bytes into the list that this yields, and end the block.

    Raises:
        NotFoundError: The file is gone.
        UnavailableError: The place where it lies does not answer, or does not let us in.
    """
    problem: list[str] = []
    try:
        yield problem
    except DAMAGE as exc:
        problem.append(_translated(path, exc))


def _translated(path: str, exc: BaseException) -> str:
    if isinstance(exc, DamageError):
        return str(exc)
    if isinstance(exc, OSError) and exc.errno in _ABSENT:
        raise NotFoundError(f"No file at {path}; it must be readable where the job runs.") from exc
    if isinstance(exc, OSError) and (exc.errno in _AWAY or any(word in str(exc) for word in _SERVICES)):
        raise UnavailableError(f"{path} cannot be read now: {_first_line(exc)}. Try again.") from exc
    return f"the file cannot be read further: {_first_line(exc)}"


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:200].rstrip(". ")
