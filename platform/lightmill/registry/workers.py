"""Threads that share one line of work: the first error ends all, and nobody runs on after the call returns."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeVar

Job = TypeVar("Job")

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) as work goes on, from several threads but never two at once."""


def cpu_threads() -> int:
    """Return how many threads keep this process's CPUs busy: two to eight."""
    return max(2, min(8, len(os.sched_getaffinity(0))))


class Gauge:
    """Adds up what is done and reports it; the callback may raise, which ends the work."""

    def __init__(self, total: int, report: Progress | None) -> None:
        self._total = total
        self._report = report
        self._done = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count `count` more bytes."""
        if self._report:
            with self._lock:
                self._done += count
                self._report(self._done, self._total)


def run_jobs(threads: int, jobs: Iterable[Job], new_worker: Callable[[], Callable[[Job], None]]) -> None:
    """Do all jobs on `threads` threads, this one included; each calls its own worker from `new_worker`.

    Jobs are taken from the iterable when a thread is free, so it may be lazy and never runs far ahead.

    Raises:
        BaseException: The first error of any job, or of the iterable; all threads have ended by then.
    """
    waiting = iter(jobs)
    lock = threading.Lock()
    errors: list[BaseException] = []

    def take() -> list[Job]:
        with lock:
            return list(islice(waiting, 1))

    def drain() -> None:
        try:
            work = new_worker()
            while not errors and (taken := take()):
                work(taken[0])
        except BaseException as exc:  # noqa: BLE001 - carried to the caller's thread below
            errors.append(exc)

    others = [threading.Thread(target=drain, daemon=True) for _ in range(threads - 1)]
    try:
        for thread in others:
            thread.start()
        drain()
    finally:
        _end(others, errors)
    if errors:
        raise errors[0]


def _end(threads: list[threading.Thread], errors: list[BaseException]) -> None:
    """Wait for the threads; an interruption of the wait makes them stop, and is raised after they have."""
    while True:
        try:
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        except BaseException as exc:  # noqa: BLE001 - KeyboardInterrupt: stop the others first
            errors.append(exc)
        else:
            return
