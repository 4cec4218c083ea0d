"""Where Ray puts objects that do not fit its object store: in memory, or in a folder that the deployment chose.

Ray writes such objects as they are. In memory (tmpfs) nothing of them outlives the machine's power; what a process
that was killed left there is removed by the next one.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from lightmill.errors import RequestError
from lightmill.settings import Settings

NODE_PREFIX = "ray_spilled_objects_"
"""How Ray calls the folder of a node below the one that it is given."""

JOB_PREFIX = "job-"


def node_spill_folder(settings: Settings) -> Path:
    """Return the folder for the Ray that this home starts next, without what an earlier one left.

    Raises:
        RequestError: It is somebody else's, open to others, or cannot be made.
    """
    remove_node_spill(settings)
    return _private(settings.spill_folder)


def remove_node_spill(settings: Settings) -> None:
    """Remove what the Ray of this home has spilled, and the folder if it is empty then; that Ray must have ended."""
    for left in settings.spill_folder.glob(NODE_PREFIX + "*"):
        shutil.rmtree(left, ignore_errors=True)
    _remove_empty(settings.spill_folder)


@contextmanager
def job_spill_folder(settings: Settings) -> Iterator[Path]:
    """Make a folder for the Ray that this process starts for itself; it goes with the `with` block.

    Raises:
        RequestError: It is somebody else's, open to others, or cannot be made.
    """
    parent = _private(settings.spill_folder)
    for left in parent.glob(JOB_PREFIX + "*"):
        if not psutil.pid_exists(int(left.name.removeprefix(JOB_PREFIX))):
            shutil.rmtree(left, ignore_errors=True)
    folder = _private(parent / f"{JOB_PREFIX}{os.getpid()}")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(parent)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _private(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as exc:
        raise RequestError(
            f"The folder {folder} for objects that Ray spills cannot be made ({exc.strerror}); set "
            "LIGHTMILL_SPILL_PATH to a folder on tmpfs or on an encrypted disk."
        ) from exc
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise RequestError(
            f"{folder}, where Ray spills objects, is not this user's alone; give it mode 0700, or set "
            "LIGHTMILL_SPILL_PATH to another folder."
        )
    return folder
