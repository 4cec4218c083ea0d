"""One JSON line for each request, written by a thread; never a key and never anything of a body."""

from __future__ import annotations

import random
import re
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from lightmill.records.base import iso_of

QUEUED_MOST = 10_000
PATH_MOST = 200
_SECRETS = re.compile(rb"lm_([0-9a-f]{8})_[A-Za-z0-9_-]*|eyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)*")
"""API keys and tokens, also cut off ones."""
Write = Callable[[bytes], object]


@dataclass(slots=True, kw_only=True)
class Answered:
    """A request that was answered, as the logs and traces tell of it. Times are seconds, `at` since 1970.

    Nothing changes one; it is not frozen because that takes three times as long to make, on every request.
    """

    at: float
    request_id: str
    caller: str
    method: str
    path: str
    status: int
    protocol: str
    total_s: float
    bytes_in: int
    bytes_out: int
    rows: int = 0
    queue_s: float = 0.0
    batch_wait_s: float = 0.0
    compute_s: float = 0.0
    error: str | None = None
    trace_id: str | None = None


class AccessLog:
    """Queues requests and writes them as lines.

    Attributes:
        dropped: How many requests did not fit the queue.
    """

    def __init__(
        self,
        endpoint: str,
        version: str,
        sample: float = 1.0,
        *,
        write: Write | None = None,
        most: int = QUEUED_MOST,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Log a share of the requests of one replica; without `write`, to standard error, where Ray keeps logs."""
        self._endpoint, self._version = endpoint, version
        self._second, self._shown = -1, ""
        self._sample = sample
        self._write = write or _to_standard_error
        self._most = most
        self._chance = chance
        self._queue: deque[Answered] = deque()
        self.dropped = 0

    def offer(self, answered: Answered) -> None:
        """Queue a request, if it is in the sample and there is room; errors are always in the sample."""
        if self._sample < 1.0 and answered.status < 400 and self._chance() >= self._sample:
            return
        if not self._sample:
            return
        if len(self._queue) >= self._most:
            self.dropped += 1
            return
        self._queue.append(answered)

    def flush(self) -> int:
        """Write what is queued, in one piece; return how many lines. Only one thread calls this."""
        lines: list[bytes] = []
        while self._queue:
            lines.append(orjson.dumps(self._line(self._queue.popleft())))
        if lines:
            data = b"\n".join(lines) + b"\n"
            if b"lm_" in data or b"eyJ" in data:
                data = _SECRETS.sub(_hidden, data)
            self._write(data)
        return len(lines)

    def _line(self, found: Answered) -> dict[str, object]:
        second = int(found.at)
        if second != self._second:
            self._second, self._shown = second, iso_of(second)[:-5]
        line: dict[str, object] = {
            "time": f"{self._shown}.{int(found.at % 1 * 1000):03d}Z",
            "request": found.request_id,
            "endpoint": self._endpoint,
            "version": self._version,
            "caller": found.caller,
            "method": found.method[:16],
            "path": found.path[:PATH_MOST],
            "protocol": found.protocol,
            "status": found.status,
            "bytes_in": found.bytes_in,
            "bytes_out": found.bytes_out,
            "total_us": int(found.total_s * 1e6),
        }
        if found.rows:
            line["rows"] = found.rows
            line["queue_us"] = int(found.queue_s * 1e6)
            line["batch_wait_us"] = int(found.batch_wait_s * 1e6)
            line["compute_us"] = int(found.compute_s * 1e6)
        if found.error:
            line["error"] = found.error
        if found.trace_id:
            line["trace"] = found.trace_id
        return line


def _hidden(found: re.Match[bytes]) -> bytes:
    """Return what stands in place of a key or token that a client put where it does not belong."""
    return b"lm_" + found[1] + b"_***" if found[1] else b"***"


def _to_standard_error(data: bytes) -> None:
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()
