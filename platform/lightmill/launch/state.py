"""What `up` started, in a 0600 file for `status` and `down`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil

from lightmill.errors import IntegrityError
from lightmill.records.base import Record
from lightmill.settings import Settings

MARK_VARIABLE = "LIGHTMILL_PLATFORM"
RAY_PROGRAMS = ("python", "ray", "gcs_server", "haproxy")


class PlatformState(Record):
    """A started platform. `mark` stands in the environment of every process that belongs to it.

    `owns_ray` is false where the platform was deployed on a Ray that somebody else started.
    """

    mark: str
    url: str
    dashboard_url: str
    ray_address: str
    ray_folder: str
    owns_ray: bool
    started: str
    ready: bool = False


def read_state(settings: Settings) -> PlatformState | None:
    """Return what was started here, or None.

    Raises:
        IntegrityError: The file is damaged.
    """
    path = settings.process_path
    try:
        return PlatformState.model_validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise IntegrityError(
            f"{path} is damaged. End the platform's processes by hand (their environment holds {MARK_VARIABLE}), "
            "then remove the file."
        ) from exc


def write_state(settings: Settings, state: PlatformState) -> None:
    """Write the file, whole or not at all."""
    path = settings.process_path
    temporary = path.with_suffix(".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(state.model_dump(mode="json"), file)
    temporary.replace(path)


def platform_processes(state: PlatformState) -> list[psutil.Process]:
    """Return every live process of a platform but this one: those that carry its mark, and their descendants.

    Ray's workers overwrite their environment with a title, so they are found as children of marked processes
    and by the session folder in their command line.
    """
    everyone = {process.pid: process for process in psutil.process_iter(["ppid"])}
    children: dict[int, list[int]] = {}
    for process in everyone.values():
        children.setdefault(process.info["ppid"], []).append(process.pid)
    waiting = [pid for pid, process in everyone.items() if pid != os.getpid() and _belongs(process, state)]
    found: set[int] = set()
    while waiting:
        pid = waiting.pop()
        if pid not in found and pid != os.getpid():
            found.add(pid)
            waiting += children.get(pid, [])
    return [everyone[pid] for pid in sorted(found)]


def _belongs(process: psutil.Process, state: PlatformState) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(MARK_VARIABLE) == state.mark:
            return True
        program, *arguments = process.cmdline() or [""]
        return Path(program).name.startswith(RAY_PROGRAMS) and any(
            _names(argument, state.ray_folder) for argument in arguments
        )
    except (psutil.Error, OSError):
        return False


def command_of(process: psutil.Process) -> list[str]:
    """Return a process's command line, empty when it has ended."""
    try:
        return process.cmdline()
    except (psutil.Error, OSError):
        return []


def _names(argument: str, folder: str) -> bool:
    """Whether an argument is the folder, a path in it, or an option with such a value."""
    value = argument.rpartition("=")[2]
    return value == folder or value.startswith(folder + "/")


def ray_folder(settings: Settings) -> Path:
    """Return where Ray keeps its session, sockets and logs."""
    return settings.run_path / "ray"
