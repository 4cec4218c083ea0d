"""A folder in memory for what a library insists on reading as files: tokenizers and configurations, never weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lightmill.errors import UnavailableError
from lightmill.models.exchange.source import safe_path

MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - a tmpfs; the folder in it has mode 0700 and a random name


@contextmanager
def private_folder(files: Mapping[str, bytes]) -> Iterator[Path]:
    """Give a folder on a memory file system that only this user can enter, filled with `files`; then remove it.

    Raises:
        UnavailableError: This system has no /dev/shm.
    """
    if not MEMORY_FOLDER.is_dir():
        raise UnavailableError(f"{MEMORY_FOLDER} is needed to hand files to a library without writing to a disk.")
    with tempfile.TemporaryDirectory(prefix="lm-", dir=MEMORY_FOLDER) as name:
        folder = Path(name)
        for path, data in files.items():
            place = folder / safe_path(path)
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.write_bytes(data)
        yield folder
