"""Dynamic batching: what waits together is computed together, and everybody gets their own rows."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import RequestError
from lightmill.models.answers import Answers
from lightmill.serving.batcher import Batcher

Rows = npt.NDArray[np.float32]


class Recorder:
    """Answers with the first feature of each row, and keeps the size of every batch and its thread."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.threads: set[int] = set()

    def __call__(self, features: Rows) -> Answers:
        self.sizes.append(len(features))
        self.threads.add(threading.get_ident())
        if (features < 0).any():
            raise ValueError("a negative feature")
        return Answers(probabilities=features[:, :2], label=features[:, 0].astype(np.int64))


def rows(*values: float) -> Rows:
    return np.array([[value, value + 0.5, 0] for value in values], dtype=np.float32)


def batcher(compute: Recorder, *, inline: bool = True, max_rows: int = 8, max_wait_s: float = 0.0) -> Batcher:
    return Batcher(compute, max_rows=max_rows, max_wait_s=max_wait_s, inline=inline)


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "threaded"])
@pytest.mark.parametrize("max_wait_s", [0.0, 0.005])
def test_concurrent_requests_are_merged_and_everybody_gets_their_rows(inline: bool, max_wait_s: float) -> None:
    compute = Recorder()

    async def run() -> list[Answers]:
        under_test = batcher(compute, inline=inline, max_wait_s=max_wait_s)
        return await asyncio.gather(*(under_test.predict(rows(n, n + 100)) for n in range(4)))

    answers = asyncio.run(run())
    assert compute.sizes == [8]
    assert [a.label.tolist() for a in answers] == [[n, n + 100] for n in range(4)]
    assert [a.probabilities[:, 1].tolist() for a in answers] == [[n + 0.5, n + 100.5] for n in range(4)]
    assert (threading.get_ident() in compute.threads) is inline


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "threaded"])
def test_a_batch_is_never_larger_than_its_limit(inline: bool) -> None:
    compute = Recorder()

    async def run() -> list[Answers]:
        under_test = batcher(compute, inline=inline, max_rows=5)
        return await asyncio.gather(*(under_test.predict(rows(n, n, n)) for n in range(7)))

    answers = asyncio.run(run())
    assert max(compute.sizes) <= 5
    assert sum(compute.sizes) == 21
    assert [a.label.tolist() for a in answers] == [[n] * 3 for n in range(7)]


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "threaded"])
def test_a_large_request_is_split_and_put_together_in_order(inline: bool) -> None:
    compute = Recorder()

    async def run() -> list[Answers]:
        under_test = batcher(compute, inline=inline, max_rows=8)
        return await asyncio.gather(
            under_test.predict(rows(1)), under_test.predict(rows(*range(20))), under_test.predict(rows(2))
        )

    small, large, last = asyncio.run(run())
    assert large.label.tolist() == list(range(20))
    assert (small.label.tolist(), last.label.tolist()) == ([1], [2])
    assert max(compute.sizes) <= 8


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "threaded"])
def test_an_exception_reaches_everybody_who_waited_and_the_next_batch_is_computed(inline: bool) -> None:
    compute = Recorder()

    async def run() -> tuple[list[object], Answers]:
        under_test = batcher(compute, inline=inline)
        failed = await asyncio.gather(under_test.predict(rows(1)), under_test.predict(rows(-1)), return_exceptions=True)
        return list(failed), await under_test.predict(rows(3))

    failed, answer = asyncio.run(run())
    assert all(isinstance(problem, ValueError) for problem in failed)
    assert answer.label.tolist() == [3]


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "threaded"])
def test_a_request_that_was_cancelled_before_its_turn_is_not_computed(inline: bool) -> None:
    compute = Recorder()

    async def run() -> Answers:
        under_test = batcher(compute, inline=inline, max_wait_s=0.005)
        gone = asyncio.create_task(under_test.predict(rows(7, 7, 7)))
        stays = asyncio.create_task(under_test.predict(rows(1)))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await stays

    assert asyncio.run(run()).label.tolist() == [1]
    assert compute.sizes == [1]


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "threaded"])
def test_when_all_are_cancelled_nothing_is_computed_and_the_next_request_is(inline: bool) -> None:
    compute = Recorder()

    async def run() -> Answers:
        under_test = batcher(compute, inline=inline, max_wait_s=0.005)
        tasks = [asyncio.create_task(under_test.predict(rows(n))) for n in range(3)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await under_test.predict(rows(9))

    assert asyncio.run(run()).label.tolist() == [9]
    assert compute.sizes == [1]


def test_a_request_that_is_cancelled_while_it_is_computed_does_not_disturb_its_neighbours() -> None:
    started, go_on = threading.Event(), threading.Event()

    def compute(features: Rows) -> Answers:
        started.set()
        assert go_on.wait(30)
        return Answers(probabilities=features[:, :2], label=features[:, 0].astype(np.int64))

    async def run() -> Answers:
        under_test = Batcher(compute, max_rows=8, max_wait_s=0, inline=False)
        gone = asyncio.create_task(under_test.predict(rows(1)))
        stays = asyncio.create_task(under_test.predict(rows(2)))
        await asyncio.to_thread(started.wait, 30)
        gone.cancel()
        go_on.set()
        return await stays

    assert asyncio.run(run()).label.tolist() == [2]


def test_what_arrives_during_a_computation_is_gathered_for_the_next() -> None:
    started, go_on = threading.Event(), threading.Event()
    compute = Recorder()

    def slow(features: Rows) -> Answers:
        started.set()
        assert go_on.wait(30)
        return compute(features)

    async def run() -> list[Answers]:
        under_test = Batcher(slow, max_rows=8, max_wait_s=0, inline=False)
        first = asyncio.create_task(under_test.predict(rows(0)))
        await asyncio.to_thread(started.wait, 30)
        later = [asyncio.create_task(under_test.predict(rows(n))) for n in range(1, 5)]
        await asyncio.sleep(0)
        go_on.set()
        return [await first, *await asyncio.gather(*later)]

    assert [a.label.tolist() for a in asyncio.run(run())] == [[n] for n in range(5)]
    assert compute.sizes == [1, 4]


def test_a_full_batch_does_not_wait_for_the_clock() -> None:
    compute = Recorder()

    async def run() -> list[Answers]:
        under_test = batcher(compute, max_rows=2, max_wait_s=3600)
        return await asyncio.gather(under_test.predict(rows(1)), under_test.predict(rows(2)))

    assert [a.label.tolist() for a in asyncio.run(run())] == [[1], [2]]
    assert compute.sizes == [2]


def test_an_error_of_ours_arrives_as_it_is() -> None:
    def refuse(_: Rows) -> Answers:
        raise RequestError("no")

    async def run() -> None:
        await Batcher(refuse, max_rows=2, max_wait_s=0, inline=True).predict(rows(1))

    with pytest.raises(RequestError, match="no"):
        asyncio.run(run())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=12),
    st.integers(1, 6),
    st.booleans(),
)
def test_in_any_order_of_arrival_everybody_gets_their_own_answer(
    requests: list[tuple[int, int]], max_rows: int, inline: bool
) -> None:
    compute = Recorder()

    async def one(under_test: Batcher, number: int, size: int, delay: int) -> bool:
        for _ in range(delay):
            await asyncio.sleep(0)
        values = [number * 100 + k for k in range(size)]
        answers = await under_test.predict(rows(*values))
        return answers.label.tolist() == values

    async def run() -> list[bool]:
        under_test = batcher(compute, inline=inline, max_rows=max_rows)
        return await asyncio.gather(*(one(under_test, n, *request) for n, request in enumerate(requests)))

    assert all(asyncio.run(run()))
    assert sum(compute.sizes) == sum(size for size, _ in requests)
    assert max(compute.sizes) <= max_rows


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "threaded"])
def test_only_rows_of_one_shape_are_computed_together(inline: bool) -> None:
    compute = Recorder()

    async def run() -> list[Answers]:
        under_test = batcher(compute, inline=inline)
        wide = [np.pad(rows(value), ((0, 0), (0, 2))) for value in (2, 3)]
        return await asyncio.gather(*map(under_test.predict, [rows(0), rows(1), *wide, rows(4)]))

    found = asyncio.run(run())
    assert [answer.label.tolist() for answer in found] == [[0], [1], [2], [3], [4]]
    assert compute.sizes == [3, 2]
