"""Others who are told how a run goes: an interface, and a thread for each, so that a slow one keeps nobody waiting.

A logger that fails is warned of once and may go on; after some failures in a row it is told nothing any more. The run
is never disturbed.
"""

from __future__ import annotations

import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from lightmill.records.jobs import EpochMetrics, StepMetrics

WAITING_MAX = 1000
FAILURES_MAX = 5
END_S = 30.0
logger = logging.getLogger("lightmill.training")


class MetricsLogger(ABC):
    """One who is told. Methods are called from one thread, and may raise what they like."""

    @abstractmethod
    def steps(self, points: Sequence[StepMetrics]) -> None:
        """Log points of steps."""

    @abstractmethod
    def epoch(self, metrics: EpochMetrics) -> None:
        """Log an epoch."""

    @abstractmethod
    def close(self, *, succeeded: bool) -> None:
        """Log that the run ended."""


class Telling:
    """Tells one logger, which its own thread makes first, since that may import much or ask a server."""

    def __init__(self, name: str, make: Callable[[], MetricsLogger]) -> None:
        """Start the thread."""
        self._name = name
        self._make = make
        self._queue: queue.Queue[Callable[[MetricsLogger], None]] = queue.Queue(WAITING_MAX)
        self._warned = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def steps(self, points: Sequence[StepMetrics]) -> None:
        """Tell of points of steps."""
        self._put(lambda logger: logger.steps(points))

    def epoch(self, metrics: EpochMetrics) -> None:
        """Tell of an epoch."""
        self._put(lambda logger: logger.epoch(metrics))

    def close(self, *, succeeded: bool) -> None:
        """Tell that the run ended, and wait a while until everything was told."""
        self._put(lambda logger: logger.close(succeeded=succeeded))
        self._ended.set()
        self._thread.join(END_S)
        if self._thread.is_alive():
            self._warn(f"not everything was told within {END_S:g} s")

    def _put(self, call: Callable[[MetricsLogger], None]) -> None:
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            self._warn(f"it is {WAITING_MAX} reports behind; some are left out")

    def _work(self) -> None:
        try:
            told = self._make()
        except Exception as exc:  # noqa: BLE001 - whatever a logger raises, the run goes on
            self._warn(exc)
            return
        failures = 0
        while failures < FAILURES_MAX:
            try:
                call = self._queue.get(timeout=0.2)
            except queue.Empty:
                if self._ended.is_set():
                    return
                continue
            try:
                call(told)
                failures = 0
            except Exception as exc:  # noqa: BLE001 - as above
                failures += 1
                self._warn(exc)

    def _warn(self, why: object) -> None:
        if not self._warned:
            logger.warning("logging to %s does not work, training goes on: %s", self._name, why)
        self._warned = True
