"""Which rows each step takes: every row once an epoch, and the same steps for any number of workers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.training.lanes import Lanes, lane_count, shuffled

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)


def even(rows: int, lanes: int) -> list[int]:
    """Sizes as rows are dealt at random: they differ by at most one."""
    return [(rows + lanes - 1 - lane) // lanes for lane in range(lanes)]


def steps_of(lanes: Lanes, world: int, seed: int, epoch: int, first: int = 0) -> list[list[tuple[int, int]]]:
    """The rows of each step from `first` on, as (lane, place) of all workers together."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(lanes.steps)]
    for rank in range(world):
        share = lanes.share(rank, world)
        names = [(lane, place) for lane in share for place in range(int(lanes.sizes[lane]))]
        order, starts = lanes.order(share, seed, epoch)
        for step in range(first, lanes.steps):
            found[step] += [names[place] for place in order[starts[step] : starts[step + 1]]]
    return found[first:]


@given(SIZES, st.integers(1, 50), st.integers(1, 6), st.integers(0, 3), st.integers(0, 5))
def test_every_row_comes_once_an_epoch(sizes: list[int], batch: int, world: int, seed: int, epoch: int) -> None:
    lanes = Lanes(sizes, batch)
    found = steps_of(lanes, world, seed, epoch)
    every = [(lane, place) for lane, size in enumerate(sizes) for place in range(size)]
    assert sorted(row for step in found for row in step) == every
    assert [len(step) for step in found] == [lanes.rows(step) for step in range(lanes.steps)]
    for rank in range(world):
        share = lanes.share(rank, world)
        mine = sum(lanes.rows(step, share) for step in range(lanes.steps))
        assert mine == sum(sizes[lane] for lane in share)


@given(SIZES, st.integers(1, 50), st.data())
def test_steps_have_the_same_rows_for_any_number_of_workers_and_from_any_step_on(
    sizes: list[int], batch: int, data: st.DataObject
) -> None:
    lanes = Lanes(sizes, batch)
    alone = [sorted(step) for step in steps_of(lanes, 1, 3, 2)]
    first = data.draw(st.integers(0, lanes.steps - 1))
    world = data.draw(st.integers(1, 9))
    assert [sorted(step) for step in steps_of(lanes, world, 3, 2, first)] == alone[first:]


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 9))
def test_evenly_dealt_rows_make_whole_batches_and_a_rest(rows: int, batch: int, workers: int) -> None:
    count = lane_count(batch, workers)
    lanes = Lanes(even(rows, count), batch)
    sizes = [lanes.rows(step) for step in range(lanes.steps)]
    assert sum(sizes) == rows
    if batch % count == 0:
        assert all(size <= batch for size in sizes)
        whole = min(lanes.sizes) // (batch // count)
        assert sizes[:whole] == [batch] * whole


@given(st.integers(1, 5000), st.integers(1, 64))
def test_lanes_suffice_for_the_workers_and_divide_the_batch_where_it_can_be(batch: int, workers: int) -> None:
    lanes = lane_count(batch, workers)
    assert lanes >= workers
    if batch % workers == 0:
        assert batch % lanes == 0 and lanes % workers == 0


@pytest.mark.parametrize("batch", [16, 60, 64, 96, 100, 256])
def test_divisors_of_the_batch_share_their_lanes(batch: int) -> None:
    """So that a run with 1, 2 or 4 workers sees the same batches."""
    divisors = [workers for workers in (1, 2, 4) if batch % workers == 0]
    assert len({lane_count(batch, workers) for workers in divisors}) == 1


@given(st.integers(0, 2**33), st.integers(0, 50))
@settings(max_examples=20)
def test_seed_epoch_and_lane_decide_the_order(seed: int, rows: int) -> None:
    assert sorted(shuffled(rows, seed, 1, 2)) == list(range(rows))
    assert np.array_equal(shuffled(rows, seed, 1, 2), shuffled(rows, seed, 1, 2))
    orders = {tuple(shuffled(50, seed, epoch, lane)) for epoch in range(3) for lane in range(3)}
    assert len(orders) == 9


def test_a_step_takes_rows_of_every_lane_as_long_as_there_are_some() -> None:
    lanes = Lanes([10, 10], 4)
    assert lanes.steps == 5
    assert [lanes.rows(step, range(1)) for step in range(5)] == [2] * 5
    uneven = Lanes([20, 5], 10)
    assert [uneven.rows(step, range(1, 2)) for step in range(uneven.steps)] == [1, 1, 1, 2]
    assert [uneven.rows(step) for step in range(uneven.steps)] == [6, 6, 6, 7]
