"""After which epochs a run reports and seals: epochs that take a moment each would pay more for that than for training.

The leader's clock decides for all workers, which learn it by one number an epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from lightmill.training.exchange import Exchange

REPORT_S = 1.0
REPORT, SEAL = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What is due after an epoch."""

    report: bool
    seal: bool


class Pace:
    """Asked after every epoch by all workers; all hear the same."""

    def __init__(self, exchange: Exchange, pause_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Let at least `pause_s` seconds pass between checkpoints of whole epochs."""
        self._exchange = exchange
        self._pause_s = pause_s
        self._clock = clock
        self._reported = self._sealed = clock()

    def due(self, *, final: bool) -> Due:
        """Return what is due; after the final epoch everything is, and no checkpoint is sealed without a report."""
        now = self._clock()
        seal = final or now - self._sealed >= self._pause_s
        report = seal or now - self._reported >= REPORT_S
        told = self._exchange.number(REPORT * report + SEAL * seal)
        found = Due(report=bool(told & REPORT), seal=bool(told & SEAL))
        if found.report:
            self._reported = now
        if found.seal:
            self._sealed = now
        return found
