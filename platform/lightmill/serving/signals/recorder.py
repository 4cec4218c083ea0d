"""Counts and latencies of one replica, added up in plain numbers; a call takes a few microseconds at most.

All label values come from fixed sets, so that no client can make the platform remember more: a status is a number
from 100 to 599, an error one of our classes, a protocol one of `PROTOCOLS`; anything else is `other`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from lightmill.errors import LightmillError
from lightmill.records.signals import Distribution, ReplicaSignals, TrafficSignals

PHASES = ("queue", "batch_wait", "compute", "total")
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends of the latency classes, in seconds; the last class has none."""
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
PROTOCOLS = ("oip", "tensorflow", "arrow", "numpy", "rows", "image", "grpc", "openai", "handle")
OTHER = "other"


def _names(kind: type[Exception]) -> set[str]:
    return {kind.__name__}.union(*(_names(each) for each in kind.__subclasses__()))


class _Counts:
    """How many values fell into each class, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def record(self) -> Distribution:
        return Distribution(bounds=tuple(self.bounds), counts=tuple(self.counts), total=self.total)


class Recorder:
    """Adds up what one replica did since it started. It is used from one event loop; any thread may read it.

    Attributes:
        running: How many requests are being answered; whoever lets one in adds one.
        traffic: Gives what became of requests by version, where there are candidates.
    """

    def __init__(self, endpoint: str, version: str, replica: str) -> None:
        self._labels = (endpoint, version, replica)
        self._requests: dict[tuple[str, int], int] = {}
        self._errors: dict[str, int] = {}
        self._queue, self._wait, self._compute, self._total = (_Counts(SECONDS) for _ in PHASES)
        self._batches = _Counts(ROWS)
        self._known_errors = _names(LightmillError)
        self._rows = self._tokens = 0
        self.running = 0
        self.traffic: Callable[[], TrafficSignals | None] = lambda: None

    def request(self, status: int, total_s: float, protocol: str = "oip", error: str | None = None) -> None:
        """Count an answered request, of whatever status; `error` is the name of the error's class."""
        self._total.add(total_s)
        key = (protocol, status)
        try:
            self._requests[key] += 1
        except KeyError:
            key = (protocol if protocol in PROTOCOLS else OTHER, status if 100 <= status < 600 else 0)
            self._requests[key] = self._requests.get(key, 0) + 1
        if error is not None:
            name = error if error in self._known_errors else OTHER
            self._errors[name] = self._errors.get(name, 0) + 1

    def phases(self, queue_s: float, batch_wait_s: float, compute_s: float, rows: int, tokens: int = 0) -> None:
        """Count what a request that reached the model waited and took, and how much it asked for."""
        self._queue.add(queue_s)
        self._wait.add(batch_wait_s)
        self._compute.add(compute_s)
        self._rows += rows
        self._tokens += tokens

    def batch(self, rows: int) -> None:
        """Count a batch that the model computed."""
        self._batches.add(rows)

    def snapshot(self) -> ReplicaSignals:
        """Return everything so far."""
        endpoint, version, replica = self._labels
        phases = zip(PHASES, (self._queue, self._wait, self._compute, self._total), strict=True)
        return ReplicaSignals(
            endpoint=endpoint,
            version=version,
            replica=replica,
            requests=tuple((protocol, status, count) for (protocol, status), count in list(self._requests.items())),
            errors=dict(self._errors),
            seconds={name: counts.record() for name, counts in phases},
            batches=self._batches.record(),
            rows=self._rows,
            tokens=self._tokens,
            running=self.running,
            traffic=self.traffic(),
        )
