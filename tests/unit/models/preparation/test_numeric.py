from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import RequestError
from lightmill.models.preparation import Preparation
from lightmill.records.fitted import FittedPreparation, FittedStandardize
from lightmill.records.signature import Preprocessing, Standardize
from tests.unit.models.preparation.examples import TABLES, fitted, prepare, same

STEPS: list[dict[str, Any]] = [
    {"step": "impute", "columns": ["x", "n"], "with": "mean"},
    {"step": "impute", "columns": ["x"], "with": "constant", "value": 2, "indicator": True},
    {"step": "clip", "columns": ["x", "n"], "minimum": -2.5, "maximum": 3},
    {"step": "clip", "columns": ["n"], "maximum": 2},
    {"step": "standardize", "columns": ["x", "n"]},
    {"step": "min_max", "columns": ["x", "y"], "low": -1, "high": 2},
]


@given(TABLES, st.lists(st.sampled_from(STEPS), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_a_run_gives_what_its_steps_give_one_by_one(table: pa.Table, declared: list[dict[str, Any]]) -> None:
    record = fitted(table, *declared).record()
    one_by_one = table
    for step in record.steps:
        one_by_one = Preparation(FittedPreparation(steps=(step,))).apply(one_by_one)
    assert same(Preparation(record).apply(table), one_by_one)


def test_a_run_is_what_plain_numpy_computes() -> None:
    values = np.random.default_rng(5).normal(3, 2, size=50_000)
    values[::7] = np.nan
    table = pa.table({"x": pa.chunked_array([values[:20_000], values[20_000:]])})
    declared = [
        {"step": "impute", "columns": ["x"], "with": "mean"},
        {"step": "clip", "columns": ["x"], "minimum": 0},
        {"step": "standardize", "columns": ["x"]},
    ]
    record = fitted(table, *declared).record()
    impute, _, standardize = record.steps
    plain = np.clip(np.where(np.isnan(values), impute.values[0], values), 0, None)
    plain = ((plain - standardize.mean[0]) / standardize.scale[0]).astype(np.float32)
    found = Preparation(record).apply(table).column("x")
    assert found.type == pa.float32()
    np.testing.assert_array_equal(found.to_numpy(), plain)
    assert plain.mean() == pytest.approx(0, abs=1e-6)
    assert plain.std() == pytest.approx(1, abs=1e-6)


def test_types_stay_where_values_fit() -> None:
    table = pa.table({"n": pa.array([1, None, 300], pa.int16()), "u": pa.array([0, 200, None], pa.uint8())})
    kept = prepare(
        table,
        {"step": "impute", "columns": ["n"], "with": "constant", "value": 5.0},
        {"step": "clip", "columns": ["n", "u"], "minimum": -7, "maximum": 100_000},
    )
    assert kept.schema == table.schema
    assert kept.to_pydict() == {"n": [1, 5, 300], "u": [0, 200, None]}
    half = prepare(table, {"step": "clip", "columns": ["n"], "maximum": 2.5})
    assert half.column("n").type == pa.float64()
    assert half.column("n").to_pylist() == [1, None, 2.5]
    with pytest.raises(RequestError, match="cannot hold the filled value 1000"):
        prepare(table, {"step": "impute", "columns": ["u"], "with": "constant", "value": 1000})


def test_an_indicator_says_where_values_were_missing_and_can_be_used_at_once() -> None:
    table = pa.table({"x": [1.0, None, float("nan"), 4.0]})
    made = prepare(
        table,
        {"step": "clip", "columns": ["x"], "minimum": 2},
        {"step": "impute", "columns": ["x"], "with": "constant", "value": 0, "indicator": True},
        {"step": "min_max", "columns": ["x_missing"], "low": -1},
    )
    assert made.to_pydict() == {"x": [2.0, 0.0, 0.0, 4.0], "x_missing": [-1.0, 1.0, 1.0, -1.0]}


def test_constants_do_not_divide_by_zero() -> None:
    table = pa.table({"x": [5.0, 5.0]})
    assert prepare(table, {"step": "standardize", "columns": ["x"]}).column("x").to_pylist() == [0, 0]
    scaled = prepare(table, {"step": "min_max", "columns": ["x"], "low": 2, "high": 4})
    assert scaled.column("x").to_pylist() == [2, 2]
    with pytest.raises(ValueError, match="scale is 0"):
        FittedStandardize(columns=("x",), mean=(0,), scale=(0,))


def test_an_older_preprocessing_is_carried() -> None:
    older = Preprocessing(steps=(Standardize(mean=(1.0, 2.0), scale=(2.0, 4.0)),))
    table = pa.table({"a": [3.0], "b": [6.0]})
    record = FittedPreparation.of(older, ("a", "b"))
    assert Preparation(record).apply(table).to_pydict() == {"a": [1.0], "b": [1.0]}
    with pytest.raises(ValueError, match="1 columns but 2 fitted"):
        FittedPreparation.of(older, ("a",))


@pytest.mark.parametrize(
    ("value", "column", "says"),
    [
        ("none", pa.array([1.0]), "filled with 'none'"),
        (1, pa.array(["a"]), "cannot hold the filled value 1"),
    ],
)
def test_a_fill_of_another_type_is_refused(value: object, column: pa.Array, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        prepare(pa.table({"x": column}), {"step": "impute", "columns": ["x"], "with": "constant", "value": value})


def test_text_is_not_clipped_and_a_column_is_needed_once() -> None:
    clip = {"step": "clip", "columns": ["x"], "minimum": 0}
    with pytest.raises(RequestError, match="'clip': column 'x' has type string"):
        prepare(pa.table({"x": ["a"]}), clip)
    with pytest.raises(RequestError, match="there are 2 columns 'x'"):
        prepare(pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["x", "x"]), clip)
