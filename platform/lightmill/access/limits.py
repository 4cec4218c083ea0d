"""Rate and concurrency limits of callers; pure, and time comes in as a number.

A rate is a token bucket in the form of one number, the time at which the bucket will be full again (generic cell
rate algorithm, ITU-T I.371): a caller's state is two numbers, whatever its rate and burst.

Limits are kept by each replica alone, since asking another process costs more than most predictions. Each enforces
its share of what was declared, by the number of replicas that it was told; requests do not spread evenly, so a key may
be refused a little before all replicas together have reached its limit, and while replicas come and go a little
after.
"""

from __future__ import annotations

import math

from lightmill.errors import TooManyRequestsError
from lightmill.records.access import LimitsSpec

MAX_CALLERS = 10_000
"""So many callers of one replica are remembered with what they used; keys are few, subjects of tokens may be many."""

BUSY_RETRY_S = 1.0


def together(*limits: LimitsSpec) -> LimitsSpec:
    """Return the strictest of several limits: the lowest rate with the smallest burst, the lowest concurrency."""
    rate = min((found.requests_per_s for found in limits if found.requests_per_s is not None), default=None)
    bursts = [_burst(found) for found in limits if found.requests_per_s is not None]
    return LimitsSpec(
        requests_per_s=rate,
        burst=min(bursts, default=None),
        concurrency=min((found.concurrency for found in limits if found.concurrency is not None), default=None),
    )


def share(limits: LimitsSpec, replicas: int) -> LimitsSpec:
    """Return what one of several replicas lets through: an equal part, but never less than one request at a time."""
    if replicas <= 1:
        return limits
    rate = limits.requests_per_s
    return LimitsSpec(
        requests_per_s=None if rate is None else rate / replicas,
        burst=None if rate is None else math.ceil(_burst(limits) / replicas),
        concurrency=None if limits.concurrency is None else math.ceil(limits.concurrency / replicas),
    )


def _burst(limits: LimitsSpec) -> int:
    """Return how many requests may come at once: those of one second unless something else is said."""
    return limits.burst or max(1, math.ceil(limits.requests_per_s or 0))


class LimitState:
    """What one caller has used of its limits.

    Attributes:
        running: How many of its requests are being answered.
    """

    __slots__ = ("_concurrency", "_due", "_interval_s", "_tolerance_s", "running")

    def __init__(self, limits: LimitsSpec | None = None) -> None:
        self.running = 0
        self._due = 0.0
        self.limit(limits or LimitsSpec())

    def limit(self, limits: LimitsSpec) -> None:
        """Take other limits; what was used stays used."""
        rate = limits.requests_per_s
        self._interval_s = 1 / rate if rate else 0.0
        self._tolerance_s = (_burst(limits) - 1) * self._interval_s
        self._concurrency = limits.concurrency if limits.concurrency is not None else math.inf

    def enter(self, now: float) -> None:
        """Count a request in at `now`, in seconds of a clock that never goes back; `leave` counts it out.

        Raises:
            TooManyRequestsError: It is one too many; `retry_after_s` says when one would be let in.
        """
        if self.running >= self._concurrency:
            raise TooManyRequestsError(
                f"The key has {self.running} requests that are not answered yet, and may have no more at a time here; "
                "wait for one of them.",
                BUSY_RETRY_S,
            )
        if self._interval_s:
            due = self._due if self._due > now else now
            wait_s = due - now - self._tolerance_s
            if wait_s > 1e-9:
                raise TooManyRequestsError(
                    f"The key makes more requests than the {1 / self._interval_s:g} a second that it may here; come "
                    f"again in {wait_s:.3g} s.",
                    wait_s,
                )
            self._due = due + self._interval_s
        self.running += 1

    def leave(self) -> None:
        """Count a request out."""
        self.running -= 1

    def idle(self, now: float) -> bool:
        """Whether forgetting the caller changes nothing: nothing runs and the bucket is full."""
        return not self.running and self._due <= now


class Limiter:
    """The states of all callers of one replica, at most `MAX_CALLERS`."""

    def __init__(self, most: int = MAX_CALLERS) -> None:
        self._states: dict[str, LimitState] = {}
        self._most = most

    def __len__(self) -> int:
        return len(self._states)

    def state(self, caller: str, limits: LimitsSpec, now: float) -> LimitState:
        """Return a caller's state, under these limits from now on.

        Raises:
            TooManyRequestsError: It is new, and more callers than can be remembered are at work.
        """
        found = self._states.get(caller)
        if found is None:
            if len(self._states) >= self._most:
                self._states = {id: state for id, state in self._states.items() if not state.idle(now)}
            if len(self._states) >= self._most:
                raise TooManyRequestsError(
                    f"{self._most} callers are at work on this replica, and it can count no more; come again.",
                    BUSY_RETRY_S,
                )
            found = self._states[caller] = LimitState()
        found.limit(limits)
        return found
