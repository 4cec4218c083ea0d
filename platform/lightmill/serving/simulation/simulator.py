"""One policy on one trace: an event loop over arrivals, batches, replicas that start, and the policy's ticks.

A batch's wait does not adapt here, requests have one row each and one class, and what is refused does not come again. A
policy is asked each second, with what it would know: what is ongoing, averaged over the look-back, and the rate and
latency of answers in the last half minute.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from lightmill.records.scaling import ReplicasSpec
from lightmill.records.simulations import SimulationSpec
from lightmill.serving.routing.balancer import Balancer
from lightmill.serving.scaling.policies import Pending, decide, delayed
from lightmill.serving.scaling.signals import WINDOW_S, WINDOWS, LatencyCounts, percentile
from lightmill.serving.scaling.status import Memory, ScalingStatus
from lightmill.serving.simulation.replicas import Replica

TICK_S = 1.0
PATIENCE_S = 3600.0
READY, CLOSE, DONE, TICK = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What happened: each request's arrival and latency (infinite if refused), and the life of every replica."""

    arrived: array[float]
    latency: array[float]
    refused: int
    replicas: Sequence[Replica]
    changes: int
    ended_s: float


class Simulator:
    """Runs `replicas` on arrivals; `origin_s` is the Unix time of the first second, which schedules go by."""

    def __init__(self, spec: SimulationSpec, replicas: ReplicasSpec, *, origin_s: float = 0.0) -> None:
        self._spec, self._replicas, self._origin_s = spec, replicas, origin_s
        self._draw = Random(f"{spec.seed} service")  # noqa: S311 - repeatable on purpose
        self._keys = Random(f"{spec.seed} keys")  # noqa: S311 - repeatable on purpose
        self._balancer = Balancer(spec.balancing, spec.seed)
        self._events: list[tuple[float, int, int, Replica | None]] = []
        self._numbers = 0
        self._all: list[Replica] = []
        self._there: list[Replica] = []
        self._able: list[Replica] = []
        self._weights: list[float] = []
        self._names: list[str] = []
        self._held: deque[float] = deque()
        self._arrived, self._latency = array("d"), array("d")
        self._refused = self._changes = self._target = 0
        self._pending: Pending | None = None
        self._memory: Memory = {}
        self._ongoing: deque[int] = deque(maxlen=max(1, round(replicas.look_back_s / TICK_S)))
        self._counts: deque[LatencyCounts] = deque([LatencyCounts()], maxlen=WINDOWS)

    def run(self, arrivals: Sequence[float], duration_s: float) -> Answered:
        """Return what became of all arrivals; time goes on after the last until they are answered."""
        self._scale(0.0, max(self._replicas.min, 0), ready=True)
        self._at(TICK_S, TICK, None)
        position, now_s = 0, 0.0
        while position < len(arrivals) or self._busy():
            if position < len(arrivals) and arrivals[position] <= self._events[0][0]:
                now_s = arrivals[position]
                position += 1
                self._give(now_s, now_s)
                continue
            now_s, _, kind, replica = heapq.heappop(self._events)
            if now_s > duration_s + PATIENCE_S:
                break
            self._happen(now_s, kind, replica)
        unanswered = len(self._held) + sum(one.load for one in self._there)
        for moment in (*self._held, *(each for one in self._there for each in (*one.waiting, *one.batch))):
            self._record(moment, math.inf)
        ended_s = max(now_s, duration_s)
        for one in self._there:
            one.gone_s = ended_s
        return Answered(
            arrived=self._arrived,
            latency=self._latency,
            refused=self._refused + unanswered,
            replicas=self._all,
            changes=self._changes,
            ended_s=ended_s,
        )

    def _busy(self) -> bool:
        return bool(self._held) or any(one.load for one in self._there)

    def _at(self, at_s: float, kind: int, replica: Replica | None) -> None:
        self._numbers += 1
        heapq.heappush(self._events, (at_s, self._numbers, kind, replica))

    def _happen(self, now_s: float, kind: int, replica: Replica | None) -> None:
        if replica is None:
            self._tick(now_s)
        elif kind == READY:
            replica.ready = True
            self._count_able()
            held, self._held = self._held, deque()
            for moment in held:
                self._give(now_s, moment)
        elif kind == CLOSE:
            if replica.closes_s == now_s and not replica.batch:
                self._begin(now_s, replica)
        else:
            self._done(now_s, replica)

    def _give(self, now_s: float, moment: float) -> None:
        able = self._able
        if not able:
            self._held.append(moment)
            return
        loads = [len(one.waiting) + len(one.batch) for one in able]
        key = str(int(self._spec.keys * self._keys.random() ** 2)) if self._spec.keys else ""
        replica = able[self._balancer.choose(loads, names=self._names, weights=self._weights, key=key)]
        if len(replica.waiting) >= self._spec.batching.max_queue_requests:
            self._refused += 1
            self._record(moment, math.inf)
            return
        replica.waiting.append(moment)
        self._look(now_s, replica)

    def _look(self, now_s: float, replica: Replica) -> None:
        """Begin an idle replica's batch, or see that it will be."""
        if replica.batch or not replica.waiting:
            return
        closes_s = replica.closes_at(self._spec.batching, now_s)
        if closes_s <= now_s:
            self._begin(now_s, replica)
        elif replica.closes_s != closes_s:
            replica.closes_s = closes_s
            self._at(closes_s, CLOSE, replica)

    def _begin(self, now_s: float, replica: Replica) -> None:
        replica.begin(self._spec.batching)
        self._at(now_s + replica.batch_s(self._spec.service, self._draw), DONE, replica)

    def _done(self, now_s: float, replica: Replica) -> None:
        counts = self._counts[-1]
        for moment in replica.batch:
            self._record(moment, now_s - moment)
            counts.add(now_s - moment)
        replica.batch = []
        self._look(now_s, replica)
        if replica.leaving and not replica.load:
            self._end(now_s, replica)

    def _record(self, moment: float, latency_s: float) -> None:
        self._arrived.append(moment)
        self._latency.append(latency_s)

    def _tick(self, now_s: float) -> None:
        self._at(now_s + TICK_S, TICK, None)
        self._ongoing.append(len(self._held) + sum(one.load for one in self._there))
        if now_s % WINDOW_S < TICK_S:
            self._counts.append(LatencyCounts())
        status = self._status(now_s)
        decision = decide(self._replicas, status, self._memory)
        self._memory = decision.memory
        target, self._pending = delayed(self._replicas, decision.replicas, status, self._pending)
        if target != self._target:
            self._changes += 1
            self._scale(now_s, target)

    def _status(self, now_s: float) -> ScalingStatus:
        span_s = min(now_s, WINDOW_S * (len(self._counts) - 1) + now_s % WINDOW_S) or TICK_S
        wants_latency = self._replicas.policy.name == "latency"
        return ScalingStatus(
            now_s=self._origin_s + now_s,
            running=len(self._able),
            target=self._target,
            ongoing=sum(self._ongoing) / len(self._ongoing),
            requests_per_s=sum(one.requests for one in self._counts) / span_s,
            p99_s=percentile(list(self._counts), 0.99) if wants_latency else None,
        )

    def _scale(self, now_s: float, target: int, *, ready: bool = False) -> None:
        """Start replicas, or let some leave: first those that still start, then those with the least to do."""
        self._target = target
        staying = [one for one in self._there if not one.leaving]
        for _ in range(target - len(staying)):
            number = len(self._all)
            slow = self._spec.service.slow[number] if number < len(self._spec.service.slow) else 1.0
            ready_s = now_s if ready else now_s + self._spec.service.start_s
            replica = Replica(number=number, begun_s=now_s, ready_s=ready_s, slow=slow, ready=ready)
            self._all.append(replica)
            self._there.append(replica)
            if not ready:
                self._at(ready_s, READY, replica)
        surplus = max(0, len(staying) - target)
        for replica in sorted(staying, key=lambda one: (one.ready, one.load, -one.number))[:surplus]:
            replica.leaving = True
            if not replica.load:
                self._end(now_s, replica)
        self._count_able()

    def _count_able(self) -> None:
        self._able = [one for one in self._there if one.ready and not one.leaving]
        self._weights = [1 / one.slow for one in self._able]
        self._names = [str(one.number) for one in self._able]

    def _end(self, now_s: float, replica: Replica) -> None:
        replica.gone_s = now_s
        self._there.remove(replica)
