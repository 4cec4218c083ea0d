"""What a replica has done, as Triton's statistics say it. Source: Triton, `extension_statistics.md`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lightmill.serving.phases import BatchReport
from lightmill.serving.protocols.values import dump
from lightmill.serving.tensors import ModelDescription

_PHASES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
_NS = 1_000_000_000


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One inference request as it went; the clock's seconds at the end of each phase, 0 for one it did not reach.

    `parsed` counts from `started` and has reading the body in it, `predicted` the computation and the wait before it,
    which is `waited_s`, `written` the answer. `status` is that of the answer; 499, which no answer carries, says that
    the caller went away.
    """

    started: float
    parsed: float = 0.0
    predicted: float = 0.0
    written: float = 0.0
    status: int = 200
    rows: int = 0
    waited_s: float = 0.0
    ended: float = field(default=0.0)


class Statistics:
    """Counts and sums since the replica began: of requests by HTTP, and of all batches."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._batches: dict[int, tuple[int, float]] = {}
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
        self._seconds["queue"] += outcome.waited_s
        self._seconds["compute_infer"] += outcome.predicted - outcome.parsed - outcome.waited_s
        self._seconds["compute_output"] += outcome.written - outcome.predicted

    def batch(self, report: BatchReport) -> None:
        """Take note of a batch; the largest has as many rows as the endpoint lets, so there are no more sizes."""
        if not report.failed:
            count, seconds = self._batches.get(report.rows, (0, 0.0))
            self._batches[report.rows] = (count + 1, seconds + report.compute_s)

    def report(self, model: ModelDescription) -> bytes:
        """Return the body of `/stats`."""
        done = self._counts["success"]
        counts = self._counts | dict.fromkeys(("queue", "compute_input", "compute_infer", "compute_output"), done)
        stats = {name: {"count": counts[name], "ns": int(self._seconds[name] * _NS)} for name in _PHASES}
        batches = [
            {"batch_size": rows, "compute_infer": {"count": count, "ns": int(seconds * _NS)}}
            for rows, (count, seconds) in sorted(self._batches.items())
        ]
        return dump(
            {
                "model_stats": [
                    {
                        "name": model.name,
                        "version": model.version,
                        "last_inference": int(self._last_s * 1000),
                        "inference_count": self._rows,
                        "execution_count": sum(count for count, _ in self._batches.values()),
                        "inference_stats": stats,
                        "batch_stats": batches,
                        "memory_usage": [],
                    }
                ]
            }
        )
