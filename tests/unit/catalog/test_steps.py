"""Points of steps in the catalog: in order, replaced by a later report, bounded."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.catalog import Catalog
from lightmill.catalog.runs import surplus
from lightmill.records.jobs import EpochMetrics, RunMetrics, StepMetrics


def point(step: int, loss: float = 1.0, run: str = "r") -> StepMetrics:
    return StepMetrics(run=run, step=step, epoch=1, metrics={"loss": loss}, created="now")


def test_points_come_in_order_and_a_repeated_one_replaces(catalog: Catalog) -> None:
    catalog.runs.record_steps([])
    catalog.runs.record_steps([point(20), point(5), point(100)])
    catalog.runs.record_steps([point(20, loss=0.5), point(30)])
    catalog.runs.record_steps([point(7, run="other")])
    assert catalog.runs.steps("r") == [point(5), point(20, loss=0.5), point(30), point(100)]
    assert catalog.runs.steps("r", after=20, limit=1) == [point(30)]
    assert catalog.runs.steps("nobody") == []
    epoch = EpochMetrics(run="r", epoch=1, metrics={"loss": 1.0}, created="now")
    catalog.runs.record_epoch(epoch)
    assert catalog.runs.history("r") == RunMetrics(run="r", epochs=(epoch,), steps=tuple(catalog.runs.steps("r")))


def test_a_long_run_keeps_a_bounded_number_of_points_evenly(catalog: Catalog) -> None:
    for start in range(0, 1000, 25):
        catalog.runs.record_steps([point(10 * step) for step in range(start + 1, start + 26)], most=100)
        catalog.runs.record_steps([point(10 * start + 1, run="other")], most=100)
    steps = [found.step for found in catalog.runs.steps("r")]
    assert 25 <= len(steps) <= 100 and steps[-1] == 10_000
    gaps = [later - earlier for earlier, later in pairwise(steps)]
    assert max(gaps) <= 256 + 10
    assert len(catalog.runs.steps("other")) == 40


def test_points_of_one_report_are_kept_all_or_none(catalog: Catalog) -> None:
    wrong = point(2).model_copy(update={"metrics": {"loss": float("nan")}})
    with pytest.raises(Exception, match=r"(?i)nan|json"):
        catalog.runs.record_steps([point(1), wrong])
    assert catalog.runs.steps("r") == []


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(1, 10**9), min_size=1, max_size=300), st.integers(1, 100))
def test_thinning_keeps_one_point_of_each_part_and_the_last(numbers: set[int], parts: int) -> None:
    ordered = sorted(numbers)
    left = sorted(numbers - set(surplus(ordered, parts)))
    assert left[-1] == ordered[-1]
    assert len(left) <= parts
    width = next(2**power for power in range(40) if 2**power * parts >= ordered[-1])
    assert [(number - 1) // width for number in left] == sorted({(number - 1) // width for number in ordered})
