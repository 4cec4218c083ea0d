"""What a replica tells the autoscaler of its load: requests a second and the 99th percentile of latency, of late.

Latencies are counted in bins that grow by a twelfth, so that a percentile is known to 8 %; a count costs less than a
microsecond. Counts of the last `WINDOWS` windows are kept. Latency is that of the replica: from the parsed request to
its answer; what waits in sockets before is not seen.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from lightmill.serving.phases import BatchReport

RATE, P99 = "lightmill_requests_per_s", "lightmill_p99_s"
WINDOW_S, WINDOWS = 5.0, 6
LEAST_S, MOST_S = 1e-4, 600.0
GROWTH = math.log(13 / 12)
BINS = math.ceil(math.log(MOST_S / LEAST_S) / GROWTH) + 1


class LatencyCounts:
    """Counts of latencies in bins."""

    __slots__ = ("bins", "requests")

    def __init__(self) -> None:
        self.bins = [0] * BINS
        self.requests = 0

    def add(self, latency_s: float) -> None:
        """Count one."""
        place = int(math.log(latency_s / LEAST_S) / GROWTH) + 1 if latency_s > LEAST_S else 0
        self.bins[place if place < BINS else BINS - 1] += 1
        self.requests += 1


def percentile(counts: list[LatencyCounts], share: float) -> float | None:
    """Return the upper edge in seconds of the bin that holds a percentile of all, None if there was nothing."""
    total = sum(one.requests for one in counts)
    if not total:
        return None
    seen, wanted = 0, share * total
    for place in range(BINS):
        seen += sum(one.bins[place] for one in counts)
        if seen >= wanted:
            return LEAST_S * math.exp(GROWTH * place)
    return MOST_S


class LoadSignals:
    """Counts what a batcher reports; one for each replica."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun_s = self._window_s = clock()
        self._past: deque[LatencyCounts] = deque(maxlen=WINDOWS - 1)
        self._now = LatencyCounts()

    def observe(self, report: BatchReport) -> None:
        """Count the requests that a batch answered."""
        for latency_s in report.whole:
            self._now.add(latency_s)

    def report(self) -> dict[str, float]:
        """Return the signals by name, as Serve's autoscaler takes them; no latency if nothing was answered."""
        now_s = self._clock()
        while now_s - self._window_s >= WINDOW_S:
            if now_s - self._window_s >= WINDOW_S * WINDOWS:
                self._past.clear()
                self._now = LatencyCounts()
                self._begun_s = self._window_s = now_s
                break
            self._past.append(self._now)
            self._now = LatencyCounts()
            self._window_s += WINDOW_S
        counts = [*self._past, self._now]
        span_s = now_s - max(self._begun_s, self._window_s - WINDOW_S * len(self._past))
        found = {RATE: sum(one.requests for one in counts) / span_s if span_s >= 1 else 0.0}
        latency_s = percentile(counts, 0.99)
        return found if latency_s is None else found | {P99: latency_s}
