"""How far a pass over the data is: rows, bytes, their rate, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable

from lightmill.records.jobs import Progress

REPORT_S = 1.0
Report = Callable[[Progress], None]


class Meter:
    """Reports a phase: at its beginning, at its end, and every second between.

    What remains is told by bytes, since the rows of a source are known only when all of them have been read.
    """

    def __init__(self, report: Report, phase: str, *, rows: int = 0, size_bytes: int = 0) -> None:
        self._report = report
        self._phase = phase
        self._total = rows
        self._size_bytes = size_bytes
        self._rows = self._bytes = self._known = 0
        self._began = self._last = time.monotonic()
        self._resumed: tuple[int, int] | None = None
        self._tell()

    def resume(self, finished: int, tasks: int) -> None:
        """Say how many of the tasks another job has finished; their results come first, and do not count as speed."""
        self._resumed = (finished, tasks) if finished else None
        self._began = time.monotonic()
        if finished:
            self._tell()

    def read(self, size_bytes: int) -> None:
        """Count bytes that have been read."""
        self._bytes += size_bytes

    def count(self, rows: int) -> None:
        """Count rows that are done; report if the last report is a second old."""
        self._rows += rows
        if time.monotonic() - self._last >= REPORT_S:
            self._tell()

    def finish(self) -> None:
        """Report the end."""
        self._total = self._total or self._rows
        self._tell()

    def _tell(self) -> None:
        self._last = time.monotonic()
        elapsed = self._last - self._began
        rate = self._rows / elapsed if elapsed >= REPORT_S and self._rows else None
        left = max(self._size_bytes - self._bytes, 0)
        eta = elapsed * left / self._bytes if rate and self._bytes and self._size_bytes else None
        phase = self._phase
        if self._resumed:
            phase += f" (resumed: {self._resumed[0]} of {self._resumed[1]} pieces were done)"
        self._report(
            Progress(
                phase=phase,
                done=self._rows,
                total=self._total,
                unit="rows",
                bytes_done=min(self._bytes, self._size_bytes),
                bytes_total=self._size_bytes,
                rate=rate,
                eta_s=eta,
            )
        )
