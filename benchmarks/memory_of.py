"""Memory of all processes of a run: the sum of their proportional set sizes (PSS), sampled from outside.

PSS counts a page that several processes share once in all, each with its part; pages of Ray's object store count where
they are mapped, and the page cache of files that nothing maps does not count. A process belongs to a run if its
environment holds the run's mark.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

SAMPLE_S = 0.1


class PeakMemory:
    """Samples on a thread of its own between `with` and its end; `peak_bytes` is the largest sum seen."""

    def __init__(self, mark: str) -> None:
        """Watch the processes that have `mark` (such as `NAME=value`) in their environment."""
        self.peak_bytes = 0
        self.samples = 0
        self.processes = 0
        self._mark = mark.encode()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.is_set():
            started = time.perf_counter()
            total = self._sum()
            self.peak_bytes = max(self.peak_bytes, total)
            self.samples += 1
            self._end.wait(max(0.0, SAMPLE_S - (time.perf_counter() - started)))

    def _sum(self) -> int:
        mine = [pid for pid in _numbers() if self._has_mark(pid)]
        self.processes = max(self.processes, len(mine))
        return sum(pss_bytes(pid) for pid in mine)

    def _has_mark(self, pid: str) -> bool:
        # Asked anew at every sample: between fork and exec a process still has the environment of its parent.
        with suppress(OSError):  # a process that is not ours, or has ended
            return self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return False


def _numbers() -> list[str]:
    return [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]


def pss_bytes(pid: int | str) -> int:
    """Return the proportional set size of a process; 0 when it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0
