"""Threads that share one line of work."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from lightmill.registry.workers import Gauge, run_jobs


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_job_is_done_once_and_each_thread_has_its_own_worker(threads: int) -> None:
    done: list[int] = []
    workers: list[int] = []

    def new_worker():
        workers.append(threading.get_ident())
        return done.append

    run_jobs(threads, range(200), new_worker)
    assert sorted(done) == list(range(200))
    assert len(workers) == threads


def test_the_first_error_ends_all_and_no_thread_runs_on() -> None:
    before, done = threading.active_count(), []

    def work(job: int) -> None:
        if job == 10:
            raise ValueError("ten")
        done.append(job)

    with pytest.raises(ValueError, match="ten"):
        run_jobs(4, range(100_000), lambda: work)
    assert len(done) < 100_000
    assert threading.active_count() == before


def test_an_error_of_the_line_itself_is_raised() -> None:
    def jobs() -> Iterator[int]:
        yield 1
        raise KeyError("line")

    with pytest.raises(KeyError, match="line"):
        run_jobs(3, jobs(), lambda: lambda _: None)


def test_jobs_are_taken_when_a_thread_is_free() -> None:
    taken = 0

    def jobs() -> Iterator[int]:
        nonlocal taken
        for job in range(50):
            taken += 1
            yield job

    finished: list[int] = []

    def work(job: int) -> None:
        assert taken - len(finished) <= 3
        finished.append(job)

    run_jobs(3, jobs(), lambda: work)


def test_progress_rises_to_the_total() -> None:
    seen: list[tuple[int, int]] = []
    gauge = Gauge(1000, lambda done, total: seen.append((done, total)))
    run_jobs(4, [10] * 100, lambda: gauge.add)
    assert seen == [(10 * n, 1000) for n in range(1, 101)]


def test_a_callback_that_raises_ends_the_work() -> None:
    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run_jobs(2, [1] * 10, lambda: Gauge(10, stop).add)
