"""Traces some steps of a worker by torch's profiler; the first ten are left alone, being unlike the others."""

from __future__ import annotations

import gzip
import logging
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from lightmill.training.watching.parts import Traced

LEFT_ALONE = 10
TRACE_MAX_BYTES = 64 << 20
TABLE_ROWS = 15
MEMORY = Path("/dev/shm")  # noqa: S108 - a trace goes through memory, not through a disk, on its way to be sealed
logger = logging.getLogger("lightmill.training")


class StepProfiler:
    """Traces `steps` steps after the first ten of this process; what goes wrong ends the tracing and nothing else."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self._steps = steps
        self._on_device = device.type == "cuda"
        self._done = 0
        self._running: profile | None = None
        self._found: Traced | None = None

    def stepped(self) -> None:
        """Count a step."""
        self._done += 1
        if self._done == LEFT_ALONE:
            self._begin()
        elif self._done == LEFT_ALONE + self._steps:
            self._end()

    def take(self) -> Traced | None:
        """Return what was found, once."""
        found, self._found = self._found, None
        return found

    def finish(self) -> Traced | None:
        """End a tracing that is under way, and return what was found, once."""
        self._end()
        return self.take()

    def _begin(self) -> None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_device else [])]
        try:
            self._running = profile(activities=activities)
            self._running.start()
        except RuntimeError as exc:
            logger.warning("the profiler does not start, training goes on without it: %s", exc)
            self._running = None

    def _end(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        try:
            running.stop()
            self._found = _traced(running, by_device=self._on_device)
        except (RuntimeError, OSError) as exc:
            logger.warning("the profiler's trace is lost, training goes on: %s", exc)


def _traced(running: profile, *, by_device: bool) -> Traced:
    order = "self_device_time_total" if by_device else "self_cpu_time_total"
    table = running.key_averages().table(sort_by=order, row_limit=TABLE_ROWS, max_name_column_width=50)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        path = Path(folder, "trace.json")
        running.export_chrome_trace(str(path))
        trace = gzip.compress(path.read_bytes(), compresslevel=6)
    if len(trace) > TRACE_MAX_BYTES:
        logger.warning("the profiler's trace has %d bytes and is left out; trace fewer steps", len(trace))
        trace = b""
    return Traced(table=table, trace=trace)
