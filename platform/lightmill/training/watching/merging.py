"""The parts that workers tell of the same steps become one point of the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from lightmill.records.base import now_iso
from lightmill.records.jobs import StepMetrics
from lightmill.training.watching.parts import StepPart

PATIENCE_S = 5.0


class Merging:
    """Puts points together: each when all workers have told their part, or the leader has and others do not come."""

    def __init__(
        self, run: str, *, patience_s: float = PATIENCE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Merge for one run."""
        self._run = run
        self._patience_s = patience_s
        self._clock = clock
        self._parts: dict[int, dict[int, StepPart]] = {}
        self._since: dict[int, float] = {}
        self.total = 0

    def add(self, parts: Iterable[StepPart]) -> None:
        """Take parts. A worker's later part of the same step replaces its earlier one: it began anew."""
        for part in parts:
            self._parts.setdefault(part.step, {})[part.rank] = part
            self._since.setdefault(part.step, self._clock())
            self.total = part.total

    def take(self, *, everything: bool = False) -> list[StepMetrics]:
        """Return the points that are whole, in order of their steps; with `everything` also the others."""
        found: list[StepMetrics] = []
        for step in sorted(self._parts):
            told = self._parts[step]
            late = everything or self._clock() - self._since[step] > self._patience_s
            if len(told) < next(iter(told.values())).world and not late:
                continue
            del self._parts[step], self._since[step]
            if 0 in told:
                found.append(merged(self._run, [told[rank] for rank in sorted(told)]))
        return found


def merged(run: str, parts: Sequence[StepPart]) -> StepMetrics:
    """Return the point of some workers' parts, the leader's first.

    The loss is the mean over all things counted by one worker of each data rank, waits are means over the workers,
    memory is that of the worker with the most, pace and learning rate are the leader's.
    """
    leader = parts[0]
    seconds = leader.seconds
    of_rank: dict[int, StepPart] = {}
    for part in parts:
        if part.count > 0:
            of_rank.setdefault(part.data_rank, part)
    count = sum(part.count for part in of_rank.values())
    blocked = [part.blocked_s / part.seconds for part in parts if part.blocked_s is not None]
    metrics = {
        **({"loss": sum(part.loss_sum for part in of_rank.values()) / count} if count else {}),
        **leader.shown,
        "steps_per_second": leader.steps / seconds,
        "rows_per_second": leader.rows / seconds,
        **({"tokens_per_second": count / seconds} if leader.tokens and len(of_rank) == leader.data_world else {}),
        "data_wait_share": _mean([part.data_wait_s / part.seconds for part in parts]),
        **({"communication_wait_share": _mean(blocked)} if blocked else {}),
        "memory_bytes": float(max(part.memory_bytes for part in parts)),
    }
    return StepMetrics(run=run, step=leader.step, epoch=leader.epoch, metrics=metrics, created=now_iso())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
