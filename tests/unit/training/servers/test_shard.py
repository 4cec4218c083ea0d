"""The core of a parameter server, stepped by hand: whatever order pushes come in, nothing is lost or too far ahead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import RequestError
from lightmill.records.training import Consistency
from lightmill.training.servers.shard import Array, ServerSetting, Shard
from tests.teams import spec_of
from tests.unit.training.strategies.cases import labelled

CASE = labelled(4)
WORKERS = 3
VALUES: dict[str, Array] = {"a.weight": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float32)}


def shard_of(consistency: Consistency, *, staleness: int = 0, accumulate: int = 1, **more: Any) -> Shard:
    setting = ServerSetting(
        spec=spec_of(CASE, **({"learning_rate": 0.5} | more)),
        workers=WORKERS,
        steps=10,
        epoch_steps=5,
        consistency=consistency,
        staleness=staleness,
        accumulate=accumulate,
    )
    return Shard(setting, VALUES)


def gradients(value: float) -> tuple[Array, ...]:
    return tuple(np.full_like(array, value) for array in VALUES.values())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 4), st.lists(st.integers(0, WORKERS - 1), max_size=40))
def test_ssp_never_lets_a_worker_compute_further_ahead_than_its_bound(staleness: int, turns: list[int]) -> None:
    shard = shard_of("ssp", staleness=staleness)
    computing = dict.fromkeys(range(WORKERS), True)  # who computes a step; the others wait at the server
    for worker in turns:
        if not computing[worker]:
            continue
        shard.push(worker, gradients(1.0))
        computing[worker] = False
        for waiting in range(WORKERS):
            if not computing[waiting] and shard.may_go(waiting):
                shard.grant(waiting)
                computing[waiting] = True
        slowest = min(range(WORKERS), key=lambda number: shard.clocks[number])
        assert computing[slowest], "the slowest waits: nobody would ever go on"
        assert all(shard.ahead(one) <= staleness for one in range(WORKERS) if computing[one])
        assert max(shard.clocks) - min(shard.clocks) <= staleness + 1  # a step that was begun within the bound ended
    assert shard.take_counts().ahead_most <= staleness


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, WORKERS - 1), st.integers(-8, 8)), max_size=40), st.integers(1, 5))
def test_asp_loses_no_push_in_any_order(pushes: list[tuple[int, int]], accumulate: int) -> None:
    shard = shard_of("asp", accumulate=accumulate)
    for worker, value in pushes:
        shard.push(worker, gradients(value / 8))
        assert shard.may_go(worker)
    shard.flush()
    whole = len(pushes) // accumulate * accumulate
    last = [value / 8 for _, value in pushes[whole:]]
    moved = sum(value / 8 for _, value in pushes[:whole]) / accumulate + (sum(last) / len(last) if last else 0)
    np.testing.assert_allclose(shard.parameters()[0], 1.0 - 0.5 * moved, rtol=1e-5, atol=1e-5)
    counts = shard.take_counts()
    assert counts.pushes == counts.applied == len(pushes)


@settings(max_examples=12, deadline=None)
@given(st.permutations(range(WORKERS)), st.permutations(range(WORKERS)))
def test_bsp_gives_the_same_bits_whoever_comes_first(first: list[int], second: list[int]) -> None:
    results = []
    for orders in ((first, second), (second, first)):
        shard = shard_of("bsp", optimizer="adamw")
        for order in orders:
            for worker in order:
                assert shard.may_go(worker)
                shard.push(worker, gradients(0.1 * (worker + 1)))
                assert shard.may_go(worker) == (worker == order[-1])
            assert all(shard.may_go(worker) for worker in order)
        results.append(shard.parameters()[0])
    np.testing.assert_array_equal(results[0], results[1])


def test_bsp_applies_the_mean_once() -> None:
    shard = shard_of("bsp")
    for worker, value in enumerate((1.0, 2.0, 6.0)):
        shard.push(worker, gradients(value))
    np.testing.assert_allclose(shard.parameters()[1], -0.5 * 3.0)
    assert shard.take_counts().updates == 1


def test_a_parameter_that_took_no_part_is_left_alone() -> None:
    shard = shard_of("bsp", weight_decay=0.5)
    for worker in range(WORKERS):
        shard.push(worker, (None, gradients(1.0)[1]))
    np.testing.assert_array_equal(shard.parameters()[0], VALUES["a.weight"])
    assert (shard.parameters()[1] != 0).all()


def test_clipping_is_by_the_norm_of_all_servers_gradients() -> None:
    shard = shard_of("bsp", clip_norm=1.0)
    for worker in range(WORKERS):
        shard.push(worker, gradients(2.0))
        assert not shard.may_go(worker)
    assert all(shard.gathered(worker) for worker in range(WORKERS))
    assert shard.squared_norm() == pytest.approx(4.0 * 10)
    shard.settle(20.0)
    shard.settle(20.0)  # of another worker
    np.testing.assert_allclose(shard.parameters()[1], -0.5 * 2.0 / 20.0, rtol=1e-4)


def test_what_was_given_never_changes() -> None:
    shard = shard_of("asp")
    before = shard.grant(0)
    kept = before[0].copy()
    shard.push(1, gradients(1.0))
    np.testing.assert_array_equal(before[0], kept)
    assert (shard.grant(0)[0] != kept).all()
    shard.push(0, gradients(1.0))
    shard.push(1, gradients(1.0))
    assert shard.take_counts().unseen_most == 2  # worker 1 pushed with the parameters of the start


def test_the_schedule_counts_steps_of_the_run_and_not_updates() -> None:
    shard = shard_of("asp", schedule={"name": "step", "gamma": 0.1})
    for _ in range(5):
        for worker in range(WORKERS):
            shard.push(worker, gradients(1.0))
    at_first = shard.parameters()[1][0]
    shard.push(0, gradients(1.0))
    assert at_first == pytest.approx(-0.5 * 15)
    assert shard.parameters()[1][0] - at_first == pytest.approx(-0.05, abs=1e-5)


def test_a_state_goes_on_with_the_same_bits() -> None:
    one, other = shard_of("bsp", optimizer="adamw", ema=0.5), shard_of("bsp", optimizer="adamw", ema=0.5)
    rounds = [0.5, -1.0, 0.25, 2.0]
    for place, value in enumerate(rounds):
        if place == 2:
            other.load(one.state())
            assert int(one.state()["updates"]) == 2
        for shard in (one, other) if place >= 2 else (one,):
            for worker in range(WORKERS):
                shard.push(worker, gradients(value))
    np.testing.assert_array_equal(one.parameters()[0], other.parameters()[0])
    np.testing.assert_array_equal(one.averaged()[0], other.averaged()[0])


def test_a_state_does_not_change_with_the_next_step() -> None:
    shard = shard_of("asp", optimizer="sgd")
    before = shard.state()["model"]["b"]
    shard.push(0, gradients(1.0))
    torch.testing.assert_close(before, torch.zeros(4))


def test_what_does_not_fit_is_refused() -> None:
    shard = shard_of("bsp")
    with pytest.raises(RequestError, match="1 gradients for 2 parameters"):
        shard.push(0, gradients(1.0)[:1])
    shard.push(0, gradients(1.0))
    with pytest.raises(RequestError, match="Worker 0 pushes twice"):
        shard.push(0, gradients(1.0))
