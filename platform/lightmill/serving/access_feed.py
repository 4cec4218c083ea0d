"""Changes of keys on their way to every replica, within two seconds.

The control plane writes the whole set of keys to one place, and each replica looks there every `POLL_S`: at a short
mark first, and at the set only when the mark changed. So a revocation takes at most one round of the control plane's
publisher (none when it came through the API, which wakes it) and one poll, whatever else either is busy with: neither
waits for a round of the reconcile loop, which deploys and heals.

The place is Ray's own key-value table, kept by its head: no process more, and it reaches every node. Serve's
`user_config` gives a replica its first keys, so that it can answer before it has looked.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable

from lightmill.errors import LightmillError
from lightmill.records.keys import AccessSet
from lightmill.serving.board import Board, RayBoard

POLL_S = 0.5
FIRST_LOOKS, FIRST_LOOK_S = 40, 0.05
MARK_KEY, SET_KEY = "access/mark", "access/set"
logger = logging.getLogger("lightmill.serving")


def mark_of(data: bytes) -> bytes:
    """Return the mark of a set: it differs when the set does."""
    return hashlib.sha256(data).hexdigest().encode()


def write_access(board: Board, access: AccessSet) -> bytes:
    """Write a set, then its mark; return the mark."""
    data = access.model_dump_json().encode()
    mark = mark_of(data)
    board.put(SET_KEY, data)
    board.put(MARK_KEY, mark)
    return mark


class AccessWatcher:
    """A replica's side: hands every new set to `apply`. What it cannot read or use leaves the set of before."""

    def __init__(self, board: Board, apply: Callable[[AccessSet], None]) -> None:
        self._board = board
        self._apply = apply
        self._mark: bytes | None = None
        self._warned = False
        self.half_written = False
        """Whether the last look came between the writing of the set and that of its mark."""

    @property
    def following(self) -> bool:
        """Whether a set came this way; from then on no other source of keys counts."""
        return self._mark is not None

    def step(self) -> bool:
        """Look once; return whether another set was applied."""
        self.half_written = False
        try:
            mark = self._board.get(MARK_KEY)
            if mark is None or mark == self._mark:
                return False
            data = self._board.get(SET_KEY)
            if data is None or mark_of(data) != mark:
                self.half_written = True
                return False  # the next look sees both
            self._apply(AccessSet.model_validate_json(data))
        except (LightmillError, ValueError) as exc:
            if not self._warned:
                logger.error("the keys cannot be renewed, those of before stay: %s", exc)
            self._warned = True
            return False
        self._mark, self._warned = mark, False
        return True

    def run(self, stop: threading.Event) -> None:
        """Look until `stop` is set."""
        while not stop.wait(POLL_S):
            self.step()


def follow_access(apply: Callable[[AccessSet], None], board: Board | None = None) -> AccessWatcher:
    """Look at Ray's table, then go on in a thread that ends with the process; return the watcher.

    The set is written anew whenever a number of replicas changes, as it does while replicas start: a first look that
    finds it half written looks again, since a replica without keys answers everybody with 401.
    """
    board = board or RayBoard()
    watcher = AccessWatcher(board, apply)
    for _ in range(FIRST_LOOKS):
        if watcher.step() or not watcher.half_written:
            break
        time.sleep(FIRST_LOOK_S)
    threading.Thread(target=watcher.run, args=(threading.Event(),), name="access-watcher", daemon=True).start()
    return watcher
