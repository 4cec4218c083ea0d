"""From workers to the driver on whatever nodes they run: an actor without a CPU of its own, beside the driver.

Telling is one call that nobody waits for, at most one a second and worker. A mailbox that is gone, or full, costs
points of the history and never the run.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lightmill.training.watching.parts import StepPart, Traced

PARTS_MAX = 200_000
FLUSH_S = 5.0
logger = logging.getLogger("lightmill.training")


class Mailbox:
    """What was told and not taken yet; the newest parts stay where there are too many."""

    def __init__(self) -> None:
        """Begin empty."""
        self._parts: deque[StepPart] = deque(maxlen=PARTS_MAX)
        self._traced: Traced | None = None

    def put(self, parts: list[StepPart]) -> None:
        """Keep parts."""
        self._parts.extend(parts)

    def put_traced(self, traced: Traced) -> None:
        """Keep what the profiler found."""
        self._traced = traced

    def take(self) -> tuple[list[StepPart], Traced | None]:
        """Return everything and forget it."""
        found = list(self._parts), self._traced
        self._parts.clear()
        self._traced = None
        return found


def open_mailbox() -> Any:
    """Start a mailbox on this node and return its handle; ray.kill ends it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()


class RayTell:
    """Tells a mailbox; see `Tell`."""

    def __init__(self, mailbox: Any) -> None:
        """Tell the mailbox of this handle."""
        self._mailbox = mailbox
        self._last: Any = None
        self._failed = False

    def parts(self, parts: list[StepPart]) -> None:
        """See `Tell`."""
        self._send("put", parts)

    def traced(self, traced: Traced) -> None:
        """See `Tell`."""
        self._send("put_traced", traced)

    def flush(self) -> None:
        """See `Tell`."""
        if self._last is None:
            return
        try:
            ray.get(self._last, timeout=FLUSH_S)  # a mailbox takes the calls of one worker in their order
        except RayError as exc:
            self._warn(exc)

    def _send(self, method: str, value: object) -> None:
        try:
            self._last = getattr(self._mailbox, method).remote(value)
        except RayError as exc:
            self._warn(exc)

    def _warn(self, exc: Exception) -> None:
        if not self._failed:
            logger.warning("metrics of steps do not reach the driver, training goes on: %s", exc)
        self._failed = True
