"""How much a store was asked: counts of requests and bytes, for reports and benchmarks."""

from __future__ import annotations

import threading
from typing import Literal

from lightmill.records.base import Record

Operation = Literal["create", "get", "get_range", "head", "list", "delete"]


class StoreRequests(Record):
    """What one store object of one process has sent and received so far. Bytes are those of objects."""

    create: int = 0
    get: int = 0
    get_range: int = 0
    head: int = 0
    list: int = 0
    delete: int = 0
    # Attempts that followed one that failed; they are counted above too.
    retries: int = 0
    bytes_out: int = 0
    bytes_in: int = 0

    @property
    def total(self) -> int:
        """All requests, repeated ones included."""
        return self.create + self.get + self.get_range + self.head + self.list + self.delete

    def since(self, earlier: StoreRequests) -> StoreRequests:
        """Return what was added after an earlier snapshot of the same store."""
        return StoreRequests(
            **{name: getattr(self, name) - getattr(earlier, name) for name in StoreRequests.model_fields}
        )


class RequestMeter:
    """Counts requests from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(StoreRequests.model_fields, 0)

    def sent(self, operation: Operation, bytes_out: int = 0) -> None:
        """Count a request and the bytes it carries."""
        with self._lock:
            self._counts[operation] += 1
            self._counts["bytes_out"] += bytes_out

    def received(self, bytes_in: int) -> None:
        """Count bytes that came back."""
        with self._lock:
            self._counts["bytes_in"] += bytes_in

    def retried(self) -> None:
        """Count an attempt that follows a failed one."""
        with self._lock:
            self._counts["retries"] += 1

    def snapshot(self) -> StoreRequests:
        """Return the counts of this moment."""
        with self._lock:
            return StoreRequests(**self._counts)
