"""When a batch should wait for company. Pure: times come in, decisions go out.

The rule: if arrivals have no memory (a Poisson process, which many independent clients make together), the chance that
the next one comes within `w` is 1 - exp(-w / g), where g is the mean gap between two. A batch waits for it only while
the chance is at least 1 - 1/e: if the mean gap is at most the wait. Clients that wait for their answers before they
ask again come in a burst and then no more, so a wait also ends when nobody has come for `QUIET_GAPS` mean gaps: then
with a chance of 1 - exp(-2), 86 %, the burst is over.

Sources: waiting for more when the load is moderate is the delayed batching of D. Crankshaw et al., "Clipper" (NSDI
2017), section 4.3; the gap is smoothed as J. F. Shortle et al., "Fundamentals of Queueing Theory" would estimate it,
by an exponentially weighted mean.
"""

from __future__ import annotations

QUIET_GAPS = 2.0
SMOOTHING = 0.1
LONGEST_GAP_S = 1.0


class ArrivalGaps:
    """The mean time between two requests, of late; a pause counts for `LONGEST_GAP_S` at most, to be forgotten."""

    __slots__ = ("_first", "_last_s", "mean_s")

    def __init__(self) -> None:
        self._last_s: float | None = None
        self._first = True
        self.mean_s = LONGEST_GAP_S

    def arrived(self, now_s: float) -> None:
        """Count a request."""
        last_s, self._last_s = self._last_s, now_s
        if last_s is None:
            return
        gap_s = min(now_s - last_s, LONGEST_GAP_S)
        self.mean_s = gap_s if self._first else self.mean_s + SMOOTHING * (gap_s - self.mean_s)
        self._first = False


def closes_at(first_s: float, last_s: float, gap_s: float, max_wait_s: float) -> float:
    """Return when a batch whose oldest and newest requests came at `first_s` and `last_s` should be computed.

    `gap_s` is the mean gap between arrivals; at or before `last_s` means at once.
    """
    if gap_s > max_wait_s:
        return last_s
    return min(first_s + max_wait_s, last_s + QUIET_GAPS * gap_s)
