"""The folder of an export: made beside its place, complete and durable before it has its name."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lightmill.errors import ConflictError, UnavailableError
from lightmill.models.exchange.source import safe_path
from lightmill.records.base import Record

if TYPE_CHECKING:
    from typing_extensions import Buffer


class ExportedFile(Record):
    """A file of an export, with the digest of its bytes."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(slots=True, kw_only=True)
class Target:
    """An unfinished export: folders have mode 0700, files 0600."""

    folder: Path
    files: list[ExportedFile] = field(default_factory=list)

    def write(self, path: str, runs: Iterable[Buffer]) -> ExportedFile:
        """Write one file; its path is checked, since it may come from a manifest of somebody else.

        Raises:
            RequestError: The path leaves the folder, or is odd.
            UnavailableError: The disk refuses.
        """
        place = self.folder / safe_path(path)
        digest, size = hashlib.sha256(), 0
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                for run in runs:
                    digest.update(run)
                    size += file.write(run)
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            raise UnavailableError(f"{path} cannot be written: {exc.strerror}.") from exc
        return self._add(path, size, digest.hexdigest())

    def adopt(self, path: str) -> ExportedFile:
        """Take in a file that a library wrote into the folder."""
        place = self.folder / path
        place.chmod(0o600)
        with place.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        return self._add(path, place.stat().st_size, digest)

    def _add(self, path: str, size: int, digest: str) -> ExportedFile:
        found = ExportedFile(path=path, size_bytes=size, sha256=digest)
        self.files.append(found)
        return found


def check_free(folder: Path) -> None:
    """Check that an export may appear at `folder`: nothing is there, or an empty folder.

    Raises:
        ConflictError: Something is there.
    """
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ConflictError(f"{folder} exists and is not empty; an export never overwrites. Choose another folder.")


@contextmanager
def target_folder(folder: Path, *, replace: bool = False) -> Iterator[Target]:
    """Give a folder to fill; when the block ends well, it appears as `folder` in one step, else it is removed.

    With `replace`, the folder that is there makes way at the end and is then removed; it stays if the block fails.

    Raises:
        ConflictError: Something is at `folder` already, or appeared meanwhile.
        UnavailableError: The disk refuses.
    """
    if not replace:
        check_free(folder)
    # The inner folder has the final name, since a signature names what it signs.
    outer = folder.parent / f".lightmill-export-{secrets.token_hex(6)}"
    inner = outer / "new" / folder.name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        outer.mkdir(mode=0o700)
        inner.parent.mkdir(mode=0o700)
        inner.mkdir(mode=0o700)
        yield Target(folder=inner)
        for place in (*inner.rglob("*"), inner):
            if place.is_dir():
                _sync(place)
        if replace and folder.exists():
            folder.rename(outer / "replaced")
        check_free(folder)
        inner.rename(folder)
        _sync(folder.parent)
    except OSError as exc:
        raise UnavailableError(f"{folder} cannot be written: {exc.strerror or exc}.") from exc
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
