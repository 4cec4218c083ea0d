"""Metrics of all replicas, read from the board where each replica writes its own once a second."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from lightmill.catalog import Catalog
from lightmill.errors import LightmillError
from lightmill.records.signals import ReplicaSignals
from lightmill.serving.board import Board
from lightmill.serving.signals.exposition import render
from lightmill.serving.signals.reporting import SIGNALS

GONE_S = 60.0
TIDY_S = 30.0
logger = logging.getLogger("lightmill.control")


class MetricsReader:
    """Reads what replicas wrote, forgets replicas that fell silent, and writes down when keys were last used."""

    def __init__(self, catalog: Catalog, board: Board, *, wall: Callable[[], float] = time.time) -> None:
        self._catalog = catalog
        self._board = board
        self._wall = wall
        self._told: dict[str, str] = {}

    def replicas(self) -> list[ReplicaSignals]:
        """Return what each replica of the last minute wrote last; the older ones are removed."""
        found: list[ReplicaSignals] = []
        for name in sorted(self._board.names(SIGNALS)):
            data = self._board.get(name)
            try:
                signals = ReplicaSignals.model_validate_json(data or b"")
            except ValueError:
                self._board.delete(name)
                continue
            if self._wall() - signals.at > GONE_S:
                self._board.delete(name)
            else:
                found.append(signals)
        return found

    def text(self) -> str:
        """Return the metrics for Prometheus."""
        endpoints = [endpoint for endpoint in self._catalog.endpoints.list() if not endpoint.deleted]
        return render(self.replicas(), endpoints)

    def step(self) -> None:
        """Write down when keys were last used, where that is news."""
        latest: dict[str, str] = {}
        for replica in self.replicas():
            for id, at in replica.seen.items():
                latest[id] = max(at, latest.get(id, ""))
        news = {id: at for id, at in latest.items() if at > self._told.get(id, "")}
        if news:
            self._catalog.keys.used(news)
            self._told.update(news)

    def run(self, stop: threading.Event) -> None:
        """Repeat until `stop` is set; an error is logged and the next round tries again."""
        while not stop.wait(TIDY_S):
            try:
                self.step()
            except LightmillError as exc:
                logger.error("the use of keys could not be written down: %s", exc)
