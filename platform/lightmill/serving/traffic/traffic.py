"""What a replica of the stable version does for candidates: passes their share on, sends copies to shadows, counts.

A candidate costs no client an answer: whatever goes wrong with it, the stable version answers, and that is counted. A
shadow costs no client time: its copy is sent when the answer is ready, as a task of its own; at most so many are
under way, and of at most so many bytes; the rest is dropped and counted.

It is used from one event loop; `follow` and `signals` may come from another thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeVar

from lightmill.errors import LightmillError, UnavailableError
from lightmill.records.signals import TargetCounts, TrafficSignals
from lightmill.records.traffic import STABLE, TrafficPlan, TrafficTarget
from lightmill.serving.tensors import InferRequest, InferResponse
from lightmill.serving.traffic.breaker import Breaker
from lightmill.serving.traffic.candidates import Candidates
from lightmill.serving.traffic.choice import Shares, point_of, sticky_value
from lightmill.serving.traffic.comparison import compare
from lightmill.serving.traffic.counts import Counts, less
from lightmill.serving.traffic.differences import Differing

SHADOW_BYTES = 64 << 20
"""The most that copies under way hold in memory."""
LARGE_BYTES = 1 << 16
"""Answers of more are compared in a thread."""
COUNTED_MOST = 32
Header = Callable[[bytes], bytes | None]
Found = TypeVar("Found")
logger = logging.getLogger("lightmill.serving")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Active:
    """One plan, ready to be followed."""

    plan: TrafficPlan
    shares: Shares
    shadows: tuple[TrafficTarget, ...]
    before: dict[tuple[str, str], TargetCounts] = field(default_factory=dict)


class Traffic:
    """The traffic of one replica.

    Attributes:
        offer: Takes requests that a shadow answered otherwise, if somebody keeps them.
    """

    def __init__(
        self,
        version: str,
        candidates: Candidates,
        *,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without candidates.

        Args:
            version: The number of the stable version.
            candidates: Reaches the others.
            chance: Returns numbers from 0 to below 1.
            clock: Returns seconds that never go back.
        """
        self.offer: Callable[[Differing], None] | None = None
        self._version = version
        self._candidates = candidates
        self._chance = chance
        self._clock = clock
        self._active: _Active | None = None
        self._counts: dict[tuple[str, str], Counts] = {}
        self._breakers: dict[str, Breaker] = {}
        self._copies: set[asyncio.Task[None]] = set()
        self._copied_bytes = 0

    def follow(self, plan: TrafficPlan | None) -> None:
        """Do as this plan says from now on; without one, or without candidates in it, the stable version answers."""
        if plan is None:
            self._active = None
            return
        old = self._active
        if len(self._counts) > COUNTED_MOST:
            kept = {target.name for target in plan.targets} | {STABLE}
            self._counts = {key: counts for key, counts in self._counts.items() if key[0] in kept}
        same = old is not None and old.plan.generation == plan.generation
        before = old.before if old is not None and same else {k: c.record() for k, c in list(self._counts.items())}
        shadows = tuple(target for target in plan.targets if target.shadow > 0)
        self._active = _Active(plan=plan, shares=Shares(plan), shadows=shadows, before=before)

    def signals(self) -> TrafficSignals | None:
        """Return what was counted; None before there was ever a plan."""
        active = self._active
        totals = {key: counts.record() for key, counts in list(self._counts.items())}
        if active is None:
            return TrafficSignals(generation=0, totals=tuple(totals.values())) if totals else None
        window = tuple(less(found, active.before.get(key)) for key, found in totals.items())
        return TrafficSignals(generation=active.plan.generation, window=window, totals=tuple(totals.values()))

    # -- candidates ---------------------------------------------------------

    async def consult(self, request: InferRequest, header: Header, caller: str) -> InferResponse | None:
        """Return a candidate's answer to a request that is its; None if the stable version is to answer.

        Args:
            request: One that fits the stable version's model.
            header: Gives the value of a header by its name in lower case.
            caller: The id of whoever asks.
        """
        active = self._active
        if active is None or not active.shares.targets:
            return None
        value = sticky_value(active.plan, header, caller)
        point = self._chance() * 100.0 if value is None else point_of(active.plan.endpoint, value)
        target = active.shares.choose(point)
        if target is None:
            return None
        counts = self._counted(target.name, str(target.version.seq))
        found = await self._asked(target, request, _patience_s(active.plan, request), copy=False)
        if found is None:
            counts.failed()
            counts.fallbacks += 1
            return None
        response, seconds = found
        counts.answered(seconds)
        return response

    async def _asked(
        self, target: TrafficTarget, request: InferRequest, patience_s: float, *, copy: bool
    ) -> tuple[InferResponse, float] | None:
        breaker = self._breakers.setdefault(target.application, Breaker())
        if not breaker.lets(self._clock()):
            return None
        try:
            async with asyncio.timeout(patience_s):
                found = await self._candidates.consult(target.application, request, copy=copy)
        except (TimeoutError, UnavailableError):
            breaker.failed(self._clock())
            return None
        except LightmillError:
            breaker.worked()
            return None
        except Exception:
            logger.exception("candidate %s could not be asked", target.name)
            breaker.failed(self._clock())
            return None
        breaker.worked()
        return found.response, found.seconds

    # -- the stable version -------------------------------------------------

    async def timed(self, answer: Awaitable[Found]) -> Found:
        """Return what the stable version answers, counted as a candidate's answer is."""
        started = perf_counter()
        counts = self._counted(STABLE, self._version)
        try:
            found = await answer
        except LightmillError as exc:
            if exc.status >= 500:
                counts.failed()
            raise
        except Exception:
            counts.failed()
            raise
        counts.answered(perf_counter() - started)
        return found

    # -- shadows ------------------------------------------------------------

    def shadow(self, request: InferRequest, response: InferResponse, request_id: str) -> None:
        """Send copies of a request that the stable version answered; returns at once."""
        active = self._active
        if active is None:
            return
        for target in active.shadows:
            if target.shadow < 1 and self._chance() >= target.shadow:
                continue
            size = sum(tensor.array.nbytes for tensor in request.inputs)
            if len(self._copies) >= active.plan.shadow_in_flight or self._copied_bytes + size > SHADOW_BYTES:
                self._counted(target.name, str(target.version.seq)).shadow_dropped += 1
                continue
            self._copied_bytes += size
            copy = self._copy(active.plan, target, request, response, request_id, size)
            task = asyncio.get_running_loop().create_task(copy)
            self._copies.add(task)
            task.add_done_callback(self._copies.discard)

    async def settled(self) -> None:
        """Wait until no copy is under way."""
        while self._copies:
            await asyncio.wait(self._copies)

    async def _copy(
        self,
        plan: TrafficPlan,
        target: TrafficTarget,
        request: InferRequest,
        response: InferResponse,
        request_id: str,
        size: int,
    ) -> None:
        counts = self._counted(target.name, str(target.version.seq))
        try:
            found = await self._asked(target, request, plan.timeout_s, copy=True)
            if found is None:
                counts.shadow_errors += 1
                return
            counts.shadows += 1
            if sum(tensor.array.nbytes for tensor in response.outputs) > LARGE_BYTES:
                differences = await asyncio.to_thread(compare, response, found[0], plan.compare)
            else:
                differences = compare(response, found[0], plan.compare)
            if not differences:
                return
            counts.differed += 1
            if self.offer is not None:
                self.offer(
                    Differing(
                        at=time.time(),
                        request_id=request_id,
                        target=target,
                        request=request,
                        stable=response,
                        other=found[0],
                        differences=tuple(differences),
                    )
                )
        finally:
            self._copied_bytes -= size

    def _counted(self, name: str, version: str) -> Counts:
        counts = self._counts.get((name, version))
        if counts is None:
            counts = self._counts[(name, version)] = Counts(name, version)
        return counts


def _patience_s(plan: TrafficPlan, request: InferRequest) -> float:
    """Return how long a candidate is waited for: of a deadline, half is left for the stable version."""
    return plan.timeout_s if request.timeout_s is None else min(plan.timeout_s, request.timeout_s / 2)
