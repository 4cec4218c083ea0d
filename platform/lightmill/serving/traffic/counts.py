"""What each version did, counted by the replica that asked it; added up over replicas by the control plane.

Times are put into classes of equal ratio (1.4), so that a quantile is right within a fifth at any scale.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from lightmill.records.signals import Distribution, TargetCounts

BOUNDS_S = tuple(float(f"{0.0002 * 1.4**n:.4g}") for n in range(38))
"""Upper ends of the classes in seconds, from 0.2 ms to 51 s."""
_NUMBERS = ("requests", "errors", "fallbacks", "shadows", "shadow_errors", "shadow_dropped", "differed")


class Counts:
    """Counts of one version in one replica. Used from one event loop; any thread may read it."""

    __slots__ = (*_NUMBERS, "_classes", "_total_s", "name", "version")

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.requests = self.errors = self.fallbacks = 0
        self.shadows = self.shadow_errors = self.shadow_dropped = self.differed = 0
        self._classes = [0] * (len(BOUNDS_S) + 1)
        self._total_s = 0.0

    def answered(self, seconds: float) -> None:
        """Count a request that was answered in this time."""
        self.requests += 1
        self._classes[bisect_left(BOUNDS_S, seconds)] += 1
        self._total_s += seconds

    def failed(self) -> None:
        """Count a request that failed by this version's fault."""
        self.requests += 1
        self.errors += 1

    def record(self) -> TargetCounts:
        """Return everything so far."""
        seconds = Distribution(bounds=BOUNDS_S, counts=tuple(self._classes), total=self._total_s)
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return TargetCounts(name=self.name, version=self.version, seconds=seconds, **numbers)


def less(now: TargetCounts, before: TargetCounts | None) -> TargetCounts:
    """Return what was counted since `before`, of the same version in the same replica."""
    return now if before is None else _joined(now, before, -1)


def together(found: Iterable[TargetCounts]) -> dict[tuple[str, str], TargetCounts]:
    """Return counts of all replicas by candidate and version."""
    sums: dict[tuple[str, str], TargetCounts] = {}
    for one in found:
        key = (one.name, one.version)
        sums[key] = _joined(sums[key], one, 1) if key in sums else one
    return sums


def quantile(seconds: Distribution | None, share: float) -> float | None:
    """Return the time in seconds that this share of the requests did not exceed; None if nothing was counted.

    Within a class, times are taken to be spread evenly. Of the last class, which has no end, it is its beginning.
    """
    wanted = share * sum(seconds.counts) if seconds else 0.0
    if seconds is None or not wanted:
        return None
    below, start = 0, 0.0
    for bound, count in zip(seconds.bounds, seconds.counts, strict=False):
        if below + count >= wanted:
            return start + (bound - start) * (wanted - below) / count
        below, start = below + count, bound
    return start


def _joined(one: TargetCounts, other: TargetCounts, sign: int) -> TargetCounts:
    numbers = {name: getattr(one, name) + sign * getattr(other, name) for name in _NUMBERS}
    seconds = one.seconds or other.seconds
    if one.seconds and other.seconds:
        seconds = Distribution(
            bounds=one.seconds.bounds,
            counts=tuple(a + sign * b for a, b in zip(one.seconds.counts, other.seconds.counts, strict=True)),
            total=one.seconds.total + sign * other.seconds.total,
        )
    return one.model_copy(update={**numbers, "seconds": seconds})
