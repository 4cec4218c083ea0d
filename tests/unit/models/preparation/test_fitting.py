"""A fit is the same, to the last bit, whatever the order and the size of the tables it comes from."""

from __future__ import annotations

import math
import pickle
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lightmill.errors import RequestError
from lightmill.models.preparation import Preparation, StageFitter, begin, fit, fitted_from_data, settle, stages
from lightmill.models.preparation.quantiles import EXACT_VALUES, Histogram
from lightmill.models.preparation.sums import Moments
from tests.unit.models.preparation.examples import TABLES, fitted, steps

FITTING: list[dict[str, Any]] = [
    {"step": "impute", "columns": ["x", "n"], "with": "mean"},
    {"step": "impute", "columns": ["x", "n"], "with": "median"},
    {"step": "impute", "columns": ["x", "kind"], "with": "most_frequent"},
    {"step": "clip", "columns": ["x", "y"], "lower_quantile": 0.05, "upper_quantile": 0.95},
    {"step": "standardize", "columns": ["x", "y", "n"]},
    {"step": "min_max", "columns": ["x", "y"]},
    {"step": "one_hot", "columns": ["kind", "flag"], "max_categories": 3},
    {"step": "ordinal", "columns": ["kind", "n"]},
    {"step": "deduplicate", "columns": ["n", "kind"]},
    {"step": "deduplicate", "columns": ["text"], "how": "near_text", "threshold": 0.6, "hashes": 32},
]


@pytest.mark.parametrize("declared", FITTING, ids=lambda d: f"{d['step']} {d.get('with', d.get('how', ''))}".strip())
@given(table=TABLES, data=st.data())
@settings(max_examples=8, deadline=None)
def test_order_and_size_of_blocks_do_not_matter(declared: dict[str, Any], table: pa.Table, data: st.DataObject) -> None:
    (step,) = steps(declared)
    whole = begin(step)
    whole.add(table)
    order = data.draw(st.permutations(range(len(table))))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(table)), max_size=4)))
    shuffled = table.take(order)
    parts = []
    for start, end in zip([0, *cuts], [*cuts, len(table)], strict=True):
        part = begin(step)
        part.add(shuffled.slice(start, end - start))
        parts.append(pickle.loads(pickle.dumps(part)))
    total = reduce(lambda a, b: a + b, data.draw(st.permutations(parts)))
    assert total.finish() == whole.finish()
    assert repr(total.dropped()) == repr(whole.dropped())


@given(TABLES, st.data())
@settings(max_examples=8, deadline=None)
def test_the_passes_of_a_whole_preparation_add_up(table: pa.Table, data: st.DataObject) -> None:
    declared = steps(
        {"step": "impute", "columns": ["x"], "with": "median"},
        {"step": "filter", "where": "x >= -1e9"},
        {"step": "derive", "column": "z", "value": "x * 2 + y"},
        {"step": "standardize", "columns": ["z", "y"]},
        {"step": "one_hot", "columns": ["kind"]},
    )
    cut = data.draw(st.integers(0, len(table)))
    blocks = [table.slice(cut), table.slice(0, cut)]
    known = settle(declared, Path())
    for stage in stages(declared):
        fitter = pickle.loads(pickle.dumps(StageFitter(declared, stage, known)))
        sums = [pickle.loads(pickle.dumps(fitter.measure(block))) for block in blocks]
        known = known | (sums[0] + sums[1] + fitter.begin()).finish()
    assert known.record() == fitted(table, *(step.model_dump() for step in declared)).record()


BEHIND: list[dict[str, Any]] = [
    {"step": "standardize", "columns": ["x", "n", "y"]},
    {"step": "min_max", "columns": ["x", "n"]},
    {"step": "clip", "columns": ["n", "x"], "lower_quantile": 0.1, "upper_quantile": 0.8},
]


@pytest.mark.parametrize("behind", BEHIND, ids=lambda d: d["step"])
@pytest.mark.parametrize("method", ["mean", "median", "most_frequent"])
@given(table=TABLES, narrow=st.booleans(), data=st.data())
@settings(max_examples=8, deadline=None)
def test_what_is_filled_in_counts_in_the_same_pass(
    method: str, behind: dict[str, Any], table: pa.Table, narrow: bool, data: st.DataObject
) -> None:
    if narrow:
        table = table.set_column(table.column_names.index("x"), "x", table.column("x").cast(pa.float32()))
    impute = {"step": "impute", "columns": ["x", "n"], "with": method}
    assert len(stages(steps(impute, behind))) == 1
    cut = data.draw(st.integers(0, len(table)))
    together = fit(steps(impute, behind), lambda: [table.slice(cut), table.slice(0, cut)], folder=Path()).record()
    first = fitted(table, impute).record()
    second = fitted(Preparation(first).apply(table), behind).record()
    assert together.steps == (*first.steps, *second.steps)


@pytest.mark.parametrize("step", ["one_hot", "ordinal"])
@given(table=TABLES)
@settings(max_examples=8, deadline=None)
def test_what_is_most_frequent_counts_as_a_category_in_the_same_pass(step: str, table: pa.Table) -> None:
    impute = {"step": "impute", "columns": ["kind", "n"], "with": "most_frequent"}
    encode = {"step": step, "columns": ["n", "kind"], "max_categories": 2}
    first = fitted(table, impute).record()
    second = fitted(Preparation(first).apply(table), encode).record()
    assert fitted(table, impute, encode).record().steps == (*first.steps, *second.steps)


FLOATS = arrays.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e12, 1e12))


def moments(values: np.ndarray) -> tuple[float, float]:
    found = Moments()
    found.add(pa.chunked_array([values]), "x", "standardize")
    return found.mean_and_std()


@given(FLOATS)
@settings(max_examples=30)
def test_mean_and_deviation_are_those_of_numpy(values: np.ndarray) -> None:
    mean, std = moments(values)
    # NumPy's squares of less than 1e-154 become 0; the exact sums' do not.
    near = max(1e-13 * np.abs(values).max(), 1e-150)
    assert mean == pytest.approx(values.mean(), rel=1e-12, abs=near)
    assert std == pytest.approx(values.std(), rel=1e-9, abs=near)


@given(arrays.arrays(np.int32, st.integers(1, 40)))
@settings(max_examples=30)
def test_the_sums_of_integers_are_exact(values: np.ndarray) -> None:
    mean, std = moments(values.astype(np.float64))
    whole = [int(x) for x in values]
    assert mean == sum(whole) / len(whole)
    variance = len(whole) * sum(x * x for x in whole) - sum(whole) ** 2
    assert std == pytest.approx(math.sqrt(variance) / len(whole), rel=1e-15)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300, 1.7e308])
def test_sums_hold_from_the_smallest_to_the_largest_numbers(scale: float) -> None:
    mean, std = moments(np.array([0.25, -0.5, 1.0, 0.0]) * scale)
    known = np.array([0.25, -0.5, 1.0, 0.0])
    lost = scale < 2.0**-954
    assert mean == pytest.approx(0 if lost else known.mean() * scale, rel=1e-15)
    assert std == pytest.approx(0 if lost else known.std() * scale, rel=1e-15)


def test_a_large_offset_does_not_hide_the_deviation_and_a_constant_has_none() -> None:
    assert moments(np.array([1e9, 1e9 + 1, 1e9 + 2, 1e9 + 3])) == (1e9 + 1.5, math.sqrt(1.25))
    assert moments(np.full(100_000, 123456789.123))[1] == 0.0


@given(FLOATS, st.floats(0, 1))
@settings(max_examples=30)
def test_quantiles_of_few_values_are_those_of_numpy(values: np.ndarray, share: float) -> None:
    found = Histogram()
    found.add(pa.chunked_array([values]), "x", "clip")
    assert found.exact
    assert found.quantile(share) == pytest.approx(np.quantile(values, share), rel=1e-12, abs=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.25, 0.5, 0.9, 0.9999, 1.0])
def test_quantiles_of_many_values_are_as_near_as_promised(share: float) -> None:
    values = np.random.default_rng(3).lognormal(0, 4, 50_000) * np.where(np.arange(50_000) % 3, 1, -1)
    found = Histogram()
    for part in np.array_split(values, 7):
        piece = Histogram()
        piece.add(pa.chunked_array([part]), "x", "clip")
        found = found + piece
    assert not found.exact
    assert found.quantile(share) == pytest.approx(np.quantile(values, share), rel=2**-11)
    assert len(pickle.dumps(found)) < 60 * 16 * 1024


def test_counts_of_values_turn_into_buckets_at_the_same_point_in_any_order() -> None:
    values = np.arange(EXACT_VALUES + 1, dtype=np.float64)
    whole, parts = Histogram(), [Histogram(), Histogram()]
    whole.add(pa.chunked_array([values]), "x", "clip")
    parts[0].add(pa.chunked_array([values[::2]]), "x", "clip")
    parts[1].add(pa.chunked_array([values[1::2]]), "x", "clip")
    both = parts[1] + parts[0]
    assert parts[0].exact and not whole.exact and not both.exact
    assert [both.quantile(q) for q in (0, 0.3, 1)] == [whole.quantile(q) for q in (0, 0.3, 1)]


def test_only_steps_that_need_data_are_fitted_from_data() -> None:
    free = steps(
        {"step": "impute", "columns": ["x"], "with": "constant", "value": 0},
        {"step": "clip", "columns": ["x"], "minimum": 0},
        {"step": "one_hot", "columns": ["kind"], "values": ["a", "b"]},
        {"step": "ordinal", "columns": ["kind"], "values": [3, 1]},
    )
    assert not any(fitted_from_data(step) for step in free)
    record = settle(free, Path()).record()
    assert record.steps[0].values == (0,)
    assert record.steps[3].categories == ((3, 1),)
    assert stages(free) == ()


def test_equally_frequent_values_give_the_smallest_and_categories_come_in_rising_order() -> None:
    table = pa.table({"kind": ["b", "a", "c", "c", "b", "d"]})
    (impute,) = fitted(table, {"step": "impute", "columns": ["kind"], "with": "most_frequent"}).record().steps
    assert impute.values == ("b",)
    (coded,) = fitted(table, {"step": "ordinal", "columns": ["kind"], "max_categories": 3}).record().steps
    assert coded.categories == (("a", "b", "c"),)
    (often,) = fitted(table, {"step": "one_hot", "columns": ["kind"], "min_count": 2}).record().steps
    assert often.categories == (("b", "c"),)


@pytest.mark.parametrize("values", [[], [None, None], [float("nan")]])
@pytest.mark.parametrize("declared", FITTING[:7], ids=lambda d: f"{d['step']} {d.get('with', '')}".strip())
def test_nothing_to_fit_on_is_refused(declared: dict[str, Any], values: list[float | None]) -> None:
    names = declared["columns"]
    table = pa.table({name: pa.array(values, pa.float64()) for name in names})
    with pytest.raises(RequestError, match=r"'x'|'kind'"):
        fitted(table, declared)


@pytest.mark.parametrize("declared", [FITTING[0], FITTING[1], FITTING[4], FITTING[5]], ids=lambda d: d["step"])
def test_infinities_are_refused_or_told(declared: dict[str, Any]) -> None:
    values = [float("inf"), float("inf"), 1.0]
    table = pa.table(dict.fromkeys(declared["columns"], values))
    with pytest.raises(RequestError, match=r"infinite|not finite"):
        fitted(table, declared)


def test_a_clip_at_quantiles_takes_rare_infinities_away() -> None:
    table = pa.table({"x": [*range(98), float("inf"), float("-inf")]})
    (clip,) = fitted(table, {**FITTING[3], "columns": ["x"]}).record().steps
    assert clip.minimum[0] == pytest.approx(3.95)
    assert clip.maximum[0] == pytest.approx(93.05)


def test_too_many_categories_are_refused_with_their_limit() -> None:
    table = pa.table({"kind": [f"id-{i}" for i in range(100_003)]})
    with pytest.raises(RequestError, match="100,000"):
        fitted(table, {"step": "one_hot", "columns": ["kind"]})
    halves = [begin(steps(FITTING[7])[0]) for _ in range(2)]
    for part, start in zip(halves, (0, 60_000), strict=True):
        part.add(pa.table({"n": range(start, start + 60_000), "kind": ["a"] * 60_000}))
    with pytest.raises(RequestError, match="'n' has 120,000"):
        halves[0] + halves[1]


def test_floats_are_no_categories_and_text_no_numbers() -> None:
    with pytest.raises(RequestError, match="floats"):
        fitted(pa.table({"kind": [1.5, 2.5]}), {"step": "one_hot", "columns": ["kind"]})
    with pytest.raises(RequestError, match="type string, not numbers"):
        fitted(pa.table({"x": ["a"]}), {"step": "standardize", "columns": ["x"]})
    with pytest.raises(RequestError, match="there is no column 'z'; the table has x"):
        fitted(pa.table({"x": ["a"]}), {"step": "standardize", "columns": ["z"]})
