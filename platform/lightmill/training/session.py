"""What leads a run: where checkpoints come from and reports go to. Ray Train, or nothing in a process alone."""

from __future__ import annotations

import os
from typing import Protocol

import ray.train

from lightmill.records.references import VersionId
from lightmill.registry import RegistryLocation
from lightmill.training.following import AGAIN, EPOCHS
from lightmill.training.keeping import newest_checkpoint

WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


class Session(Protocol):
    """One worker's side of it."""

    watched: bool
    """Whether a node may be taken back with notice."""

    def checkpoint(self) -> VersionId | None:
        """Return the run's version to go on from, if there is one; the leader is asked."""
        ...

    def published(self, id: VersionId) -> None:
        """Hear on the leader, from any thread, that a checkpoint was published."""
        ...

    def report(self, epochs: list[dict[str, float]]) -> None:
        """Report what epochs measured; all workers call it equally often."""
        ...

    def report_again(self, epochs: list[dict[str, float]]) -> None:
        """Report what the epochs before a checkpoint measured, which may have been lost with the workers that did."""
        ...

    def preempted(self) -> bool:
        """Return whether a node of the run is taken back soon; all workers call it equally often and hear the same."""
        ...


class RaySession:
    """Ray Train's session of this worker. Ray keeps no checkpoints: those of a run are its versions in the registry."""

    def __init__(self, location: RegistryLocation, run: str) -> None:
        self._location = location
        self._run = run
        self.watched = os.environ.get(WATCHER, "1") not in ("0", "false", "False")

    def checkpoint(self) -> VersionId | None:
        """See `Session`."""
        return newest_checkpoint(self._location.open(), self._run)

    def published(self, id: VersionId) -> None:
        """See `Session`."""
        del id

    def report(self, epochs: list[dict[str, float]]) -> None:
        """See `Session`."""
        ray.train.report({EPOCHS: epochs})

    def report_again(self, epochs: list[dict[str, float]]) -> None:
        """See `Session`; `following.new_epochs` tells which of them are new."""
        ray.train.report({AGAIN: epochs})

    def preempted(self) -> bool:
        """See `Session`."""
        return ray.train.get_preemption_info() is not None


class LoneSession:
    """A session without Ray: it keeps what was reported, and begins from `start`."""

    watched = False

    def __init__(self, start: VersionId | None = None) -> None:
        self._start = start
        self.reports: list[dict[str, float]] = []
        self.again: list[dict[str, float]] = []
        self.sealed: list[VersionId] = []

    def checkpoint(self) -> VersionId | None:
        """See `Session`."""
        return self._start

    def published(self, id: VersionId) -> None:
        """See `Session`."""
        self.sealed.append(id)

    def report(self, epochs: list[dict[str, float]]) -> None:
        """See `Session`."""
        self.reports += epochs

    def report_again(self, epochs: list[dict[str, float]]) -> None:
        """See `Session`."""
        self.again = epochs

    def preempted(self) -> bool:
        """See `Session`."""
        return False
