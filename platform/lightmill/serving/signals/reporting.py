"""The thread of a replica that does what its requests should not wait for: report, write lines, seal, export."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from lightmill.errors import LightmillError
from lightmill.records.base import iso_of
from lightmill.serving.board import Board
from lightmill.serving.signals.recorder import Recorder

SIGNALS = "signals/"
EVERY_S = 1.0
HEARTBEAT_S = 15.0
SEEN_MOST = 1000
logger = logging.getLogger("lightmill.serving")


class Reporter:
    """Writes a replica's measurements to the board: once a second while they change, else as a sign of life."""

    def __init__(
        self,
        recorder: Recorder,
        board: Board,
        dropped: Callable[[], dict[str, int]] = dict,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; `dropped` gives how much each log dropped."""
        self._recorder = recorder
        self._board = board
        self._dropped = dropped
        self._wall = wall
        self._last: tuple[object, float] | None = None
        self.seen: dict[str, float] = {}

    def step(self) -> bool:
        """Report if there is news; return whether it was written."""
        now = self._wall()
        seen = dict(list(self.seen.items())[-SEEN_MOST:])
        found = self._recorder.snapshot().model_copy(
            update={"dropped": self._dropped(), "seen": {id: iso_of(at) for id, at in seen.items()}}
        )
        if self._last and self._last[0] == found and now - self._last[1] < HEARTBEAT_S:
            return False
        name = f"{SIGNALS}{found.endpoint}/{found.replica}"
        self._board.put(name, found.model_copy(update={"at": now}).model_dump_json().encode())
        self._last = (found, now)
        return True


class Worker:
    """Calls some functions again and again in a thread of its own. What one of them raises stops none of the others."""

    def __init__(self, *steps: Callable[[], object], every_s: float = EVERY_S) -> None:
        self._steps = steps
        self._every_s = every_s
        self._stop = threading.Event()
        self._failing: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def step(self) -> None:
        """Call every function once."""
        for place, step in enumerate(self._steps):
            try:
                step()
                self._failing.discard(place)
            except (LightmillError, OSError, ValueError) as exc:
                if place not in self._failing:
                    logger.error("signals of this replica are not written, requests go on: %s", exc)
                self._failing.add(place)

    def close(self) -> None:
        """End, after a last call of every function."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)
        self.step()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.step()
