"""What a replica has done, as Triton's statistics say it. Source: Triton, `extension_statistics.md`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lightmill.serving.protocols.values import dump
from lightmill.serving.tensors import ModelDescription

_PHASES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
_NS = 1_000_000_000


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One inference request as it went; the clock's seconds at the end of each phase, 0 for one it did not reach.

    `parsed` counts from `started` and has reading the body in it, `predicted` the wait for others and the computation,
    `written` the answer. `status` is that of the answer; 499, which no answer carries, says that the caller went away.
    """

    started: float
    parsed: float = 0.0
    predicted: float = 0.0
    written: float = 0.0
    status: int = 200
    rows: int = 0
    ended: float = field(default=0.0)


class Statistics:
    """Counts and sums since the replica began.

    The time in the queue is part of `compute_infer`, unless `queued_s` tells its sum; `batches` tells how many there
    were.
    """

    def __init__(
        self,
        *,
        batches: Callable[[], int] | None = None,
        queued_s: Callable[[], float] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._batches = batches
        self._queued_s = queued_s
        self._now = now
        self._counts = dict.fromkeys(_PHASES, 0)
        self._seconds = dict.fromkeys(_PHASES, 0.0)
        self._rows = 0
        self._last_s = 0.0

    def observe(self, outcome: Outcome) -> None:
        """Take note of a request that is over."""
        done = "success" if outcome.status == 200 else "fail"
        self._counts[done] += 1
        self._seconds[done] += outcome.ended - outcome.started
        if done == "fail":
            return
        self._last_s = self._now()
        self._rows += outcome.rows
        self._seconds["compute_input"] += outcome.parsed - outcome.started
        self._seconds["compute_infer"] += outcome.predicted - outcome.parsed
        self._seconds["compute_output"] += outcome.written - outcome.predicted

    def report(self, model: ModelDescription) -> bytes:
        """Return the body of `/stats`."""
        done = self._counts["success"]
        counts = self._counts | dict.fromkeys(("queue", "compute_input", "compute_infer", "compute_output"), done)
        seconds = dict(self._seconds)
        if self._queued_s:
            seconds["queue"] = self._queued_s()
            seconds["compute_infer"] = max(0.0, seconds["compute_infer"] - seconds["queue"])
        stats = {name: {"count": counts[name], "ns": int(seconds[name] * _NS)} for name in _PHASES}
        return dump(
            {
                "model_stats": [
                    {
                        "name": model.name,
                        "version": model.version,
                        "last_inference": int(self._last_s * 1000),
                        "inference_count": self._rows,
                        "execution_count": self._batches() if self._batches else done,
                        "inference_stats": stats,
                        "batch_stats": [],
                        "memory_usage": [],
                    }
                ]
            }
        )
