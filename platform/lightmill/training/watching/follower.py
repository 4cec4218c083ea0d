"""The driver's side: takes what workers tell, and passes it on while a run trains."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError

from lightmill.errors import LightmillError
from lightmill.records.jobs import EpochMetrics, Progress, RunMetrics, StepMetrics
from lightmill.records.specs import TrainSpec
from lightmill.training.following import EpochFollower, OnEpoch
from lightmill.training.watching.history import METRICS_FILE, TRACE_FILE, to_parquet
from lightmill.training.watching.loggers import MetricsLogger, Telling
from lightmill.training.watching.mailbox import open_mailbox
from lightmill.training.watching.merging import Merging
from lightmill.training.watching.parts import Traced
from lightmill.training.watching.tensorboard import TensorBoard

POLL_S = 1.0
LOG_S = 10.0
SHOWN = ("loss", "rows_per_second", "tokens_per_second")
OnSteps = Callable[[list[StepMetrics], Progress], None]
logger = logging.getLogger("lightmill.training")


class RunFollower:
    """Follows a run inside a `with` block, from epochs by the controller's file, from steps by a mailbox.

    Attributes:
        mailbox: The handle that workers tell; None where nothing is measured by step.
        metrics_path: The file of epochs.
    """

    def __init__(
        self,
        run: str,
        folder: Path,
        spec: TrainSpec,
        on_epoch: OnEpoch,
        on_steps: OnSteps,
        on_progress: Callable[[Progress], None],
    ) -> None:
        """Prepare; `folder` is the run's."""
        self.mailbox: Any = None
        self.metrics_path = folder / "metrics.jsonl"
        self._run, self._folder, self._spec = run, folder, spec
        self._on_epoch, self._on_steps, self._on_progress = on_epoch, on_steps, on_progress
        self._epochs = EpochFollower(self.metrics_path, self._epoch)
        self._merging = Merging(run)
        self._pace = Pace()
        self._tellings: list[Telling] = []
        self._traced: Traced | None = None
        self._warned = False
        self._logged = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        watch = self._spec.watch
        if watch.every_steps or watch.profile_steps:
            self.mailbox = open_mailbox()
            self._thread.start()
        makers: dict[str, Callable[[], MetricsLogger]] = {}
        if watch.tensorboard:
            makers["TensorBoard"] = lambda: TensorBoard(self._folder)
        if (mlflow := watch.mlflow) is not None:
            from lightmill.training.watching.mlflow import MLflow  # with httpx it takes 0.3 s, and few runs ask for it

            makers["MLflow"] = lambda: MLflow(mlflow, self._spec, self._run)
        self._tellings = [Telling(name, make) for name, make in makers.items()]
        self._epochs.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self.mailbox is not None:
            self._thread.join()
            self._take(everything=True)
            ray.kill(self.mailbox)
        self._epochs.__exit__(kind, exc, trace)
        for telling in self._tellings:
            telling.close(succeeded=exc is None)

    def files(self, recorded: RunMetrics) -> dict[str, bytes]:
        """Return what is sealed with the version: recorded metrics and the profiler's trace, where there are any."""
        found: dict[str, bytes] = {}
        if recorded.epochs or recorded.steps:
            found[METRICS_FILE] = to_parquet(recorded)
        if self._traced is not None and self._traced.trace:
            found[TRACE_FILE] = self._traced.trace
        return found

    def _epoch(self, metrics: EpochMetrics) -> None:
        self._on_epoch(metrics)
        for telling in self._tellings:
            telling.epoch(metrics)
        if not self._merging.total:
            self._on_progress(Progress(phase="train", done=metrics.epoch, total=self._spec.epochs, unit="epochs"))

    def _follow(self) -> None:
        while not self._stop.wait(POLL_S):
            self._take()

    def _take(self, *, everything: bool = False) -> None:
        try:
            parts, traced = ray.get(self.mailbox.take.remote(), timeout=60)
        except RayError as exc:
            self._warn(exc)
            parts, traced = [], None
        if traced is not None:
            self._traced = traced
            logger.info("the operators that took the most time:\n%s", traced.table)
        self._merging.add(parts)
        points = self._merging.take(everything=everything)
        if not points:
            return
        progress = self._pace.progress(points[-1], self._merging.total)
        if time.monotonic() - self._logged >= LOG_S:
            self._logged = time.monotonic()
            logger.info("%s", progress)
        try:
            self._on_steps(points, progress)
        except LightmillError as exc:
            self._warn(exc)
        for telling in self._tellings:
            telling.steps(points)

    def _warn(self, exc: Exception) -> None:
        if not self._warned:
            logger.warning("some metrics of steps are not recorded, training goes on: %s", exc)
        self._warned = True


class Pace:
    """How fast a run goes, all in all, since its first point; a run that fell back begins anew."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Know nothing yet."""
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def progress(self, point: StepMetrics, total: int) -> Progress:
        """Return how far a run of `total` steps is."""
        now = self._clock()
        if self._first is None or point.step < self._first[0]:
            self._first = (point.step, now)
        step, since = self._first
        rate = (point.step - step) / (now - since) if point.step > step and now > since else None
        return Progress(
            phase="train",
            done=point.step,
            total=total,
            unit="steps",
            rate=rate,
            eta_s=(total - point.step) / rate if rate else None,
            metrics={name: point.metrics[name] for name in SHOWN if name in point.metrics},
        )
