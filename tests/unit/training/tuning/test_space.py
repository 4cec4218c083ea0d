"""Drawing configurations: repeatable, inside their bounds, every combination of a grid."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.records.tuning import Dimension, TuneSpec
from lightmill.training.tuning.space import configurations, draw, nearest
from tests.unit.records.test_tuning import spec_of

SEARCH = {
    "learning_rate": {"loguniform": [1e-4, 1e-1]},
    "weight_decay": {"uniform": [0.0, 0.5]},
    "architecture.arguments.width": {"integer": [32, 100], "step": 16},
    "optimizer.name": {"choice": ["adamw", "sgd"]},
}


def first(spec: TuneSpec, count: int) -> list[dict[str, Any]]:
    return list(itertools.islice(configurations(spec), count))


def test_equal_seeds_draw_the_same_and_others_do_not() -> None:
    one, other = spec_of(search=SEARCH), spec_of(search=SEARCH, seed=1)
    assert first(one, 20) == first(one, 20)
    assert first(one, 20) != first(other, 20)
    assert all(list(values) == list(SEARCH) for values in first(one, 3))


def test_a_grid_is_tried_whole_and_then_ends() -> None:
    search = {"seed": {"choice": [1, 2, 3]}, "batch_size": {"grid": [8, 16]}}
    found = [tuple(values.values()) for values in configurations(spec_of(search=search, algorithm="grid"))]
    assert found == list(itertools.product([1, 2, 3], [8, 16]))


def test_grids_within_random_trials_take_turns_while_the_rest_is_drawn_anew() -> None:
    search = {"batch_size": {"grid": [8, 16]}, "seed": {"grid": [1, 2]}, "l1": {"uniform": [0, 1]}}
    found = first(spec_of(search=search), 8)
    assert [(v["batch_size"], v["seed"]) for v in found] == [(8, 1), (8, 2), (16, 1), (16, 2)] * 2
    assert len({v["l1"] for v in found}) == 8


@given(st.floats(1e-9, 1e3), st.floats(1e-9, 1e3), st.integers(0, 2**32), st.booleans())
def test_ranges_are_kept(low: float, width: float, seed: int, log: bool) -> None:
    high = low + width
    if high <= low:
        return
    dimension = Dimension(**{"loguniform" if log else "uniform": (low, high)})
    value = draw(dimension, random.Random(seed))
    assert isinstance(value, float) and low <= value <= high


@given(st.integers(-50, 50), st.integers(1, 60), st.integers(1, 9), st.integers(0, 999), st.floats(-200, 200))
def test_whole_numbers_keep_their_steps_also_when_they_were_changed(
    start: int, width: int, step: int, seed: int, changed: float
) -> None:
    dimension = Dimension(integer=(start, start + width), step=step)
    allowed = set(range(start, start + width + 1, step))
    assert draw(dimension, random.Random(seed)) in allowed
    assert nearest(dimension, changed) in allowed
    assert {nearest(dimension, value) for value in allowed} == allowed
    assert set(dimension.ends) <= allowed


@pytest.mark.parametrize(("value", "found"), [(0.5, 0.2), (0.01, 0.1), (0.15, 0.15)])
def test_what_left_a_range_is_put_back(value: float, found: float) -> None:
    assert nearest(Dimension(uniform=(0.1, 0.2)), value) == found
    assert nearest(Dimension(choice=("a", 7)), value) == value
