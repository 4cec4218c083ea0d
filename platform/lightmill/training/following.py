"""Metrics on their way from Ray Train's controller to the driver: a line of JSON per epoch in a file.

The controller runs on the driver's node. A file needs no connection, and no credential travels with it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ray.train import Checkpoint, UserCallback

from lightmill.errors import UnavailableError
from lightmill.records.base import now_iso
from lightmill.records.jobs import EpochMetrics

FOLLOW_INTERVAL_S = 0.2
AGAIN, EPOCHS = "again", "epochs"
logger = logging.getLogger("lightmill.training")
OnEpoch = Callable[[EpochMetrics], None]


class EpochWriter(UserCallback):
    """Appends what rank 0 reported to the run's metrics file; lives in Ray Train's controller."""

    def __init__(self, run: str, path: Path) -> None:
        self._run = run
        self._path = path

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Write a line for each epoch; metrics[0] is rank 0's."""
        with self._path.open("a+", encoding="utf-8") as file:
            written: set[int] = set()
            if AGAIN in metrics[0]:
                file.seek(0)
                written = {json.loads(line)["epoch"] for line in file if line.endswith("\n")}
            for found in new_epochs(metrics[0], written):
                values = {key: float(value) for key, value in found.items() if key != "epoch"}
                line = EpochMetrics(run=self._run, epoch=int(found["epoch"]), metrics=values, created=now_iso())
                file.write(line.model_dump_json() + "\n")


def new_epochs(reported: dict[str, Any], told: Collection[int]) -> list[dict[str, float]]:
    """Return what a report says of epochs.

    Ray Train looks for reports every second or so; those of a worker that is killed meanwhile are lost. Workers that go
    on from its checkpoint report the epochs before it again: of these, the ones that are not in `told` are new.
    """
    if AGAIN not in reported:
        return reported[EPOCHS]
    return [epoch for epoch in reported[AGAIN] if int(epoch["epoch"]) not in told]


class EpochFollower:
    """Calls `on_epoch` for every line of a metrics file, while a `with` block runs and once more at its end."""

    def __init__(self, path: Path, on_epoch: OnEpoch) -> None:
        self._path = path
        self._on_epoch = on_epoch
        self._offset = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._read()

    def _follow(self) -> None:
        while not self._stop.wait(FOLLOW_INTERVAL_S):
            self._read()

    def _read(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    self._on_epoch(EpochMetrics.model_validate(json.loads(line)))
                except UnavailableError as exc:
                    logger.warning("an epoch is not recorded yet: %s", exc)
                    return
                self._offset += len(line)
