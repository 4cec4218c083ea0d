"""What leads a run: where checkpoints come from and reports go to. Ray Train, or nothing in a process alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import ray.train
from ray.train import Checkpoint

from lightmill.errors import IntegrityError
from lightmill.records.references import VersionId

POINTER_FILE = "version.json"
Seal = Callable[[], VersionId]


class Session(Protocol):
    """One worker's side of it."""

    def checkpoint(self) -> VersionId | None:
        """Return the run's version to go on from, if there is one."""
        ...

    def report(self, metrics: dict[str, float], seal: Seal | None = None) -> None:
        """Report metrics, and on the leader the checkpoint that `seal` publishes; all workers call it equally often."""
        ...


class RaySession:
    """Ray Train's session of this worker."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder

    def checkpoint(self) -> VersionId | None:
        """See `Session`."""
        found = ray.train.get_checkpoint()
        return None if found is None else read_pointer(found)

    def report(self, metrics: dict[str, float], seal: Seal | None = None) -> None:
        """See `Session`."""
        if seal is None:
            ray.train.report(metrics)
            return
        make = seal

        def upload(_: Checkpoint, name: str) -> Checkpoint:
            folder = self._folder / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / POINTER_FILE).write_text(make().model_dump_json())
            return Checkpoint.from_directory(str(folder))

        with tempfile.TemporaryDirectory() as empty:
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(empty), checkpoint_upload_fn=upload)


class LoneSession:
    """A session without Ray: it keeps what was reported, and begins from `start`."""

    def __init__(self, start: VersionId | None = None) -> None:
        self._start = start
        self.reports: list[dict[str, float]] = []
        self.sealed: list[VersionId] = []

    def checkpoint(self) -> VersionId | None:
        """See `Session`."""
        return self._start

    def report(self, metrics: dict[str, float], seal: Seal | None = None) -> None:
        """See `Session`."""
        self.reports.append(metrics)
        if seal is not None:
            self.sealed.append(seal())


def read_pointer(checkpoint: Checkpoint) -> VersionId:
    """Return the run's version that a checkpoint of Ray points at.

    Raises:
        IntegrityError: The pointer is missing or damaged.
    """
    path = Path(checkpoint.path) / POINTER_FILE
    try:
        return VersionId.model_validate_json(path.read_text())
    except (OSError, ValueError) as exc:
        raise IntegrityError(f"The checkpoint pointer {path} is missing or damaged.") from exc
