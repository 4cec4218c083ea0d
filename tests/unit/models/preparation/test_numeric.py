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
    {"step": "clip", "columns": ["n", "flag"], "maximum": 2},
    {"step": "clip", "columns": ["n"], "maximum": -1e12},
    {"step": "impute", "columns": ["n"], "with": "constant", "value": 3e9},
    {"step": "impute", "columns": ["flag"], "with": "most_frequent"},
    {"step": "standardize", "columns": ["x", "n"]},
    {"step": "min_max", "columns": ["x", "y"], "low": -1, "high": 2},
]


def applied(record: FittedPreparation, table: pa.Table) -> pa.Table | str:
    try:
        return Preparation(record).apply(table)
    except RequestError as exc:
        return exc.message


@given(TABLES, st.lists(st.sampled_from(STEPS), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_a_run_gives_what_its_steps_give_one_by_one(table: pa.Table, declared: list[dict[str, Any]]) -> None:
    try:
        record = fitted(table, *declared).record()
    except RequestError as exc:
        assert "3000000000" in exc.message
        return
    one_by_one: pa.Table | str = table
    for step in record.steps:
        if isinstance(one_by_one, pa.Table):
            one_by_one = applied(FittedPreparation(steps=(step,)), one_by_one)
    at_once = applied(record, table)
    if isinstance(one_by_one, pa.Table) and isinstance(at_once, pa.Table):
        assert same(at_once, one_by_one)
    else:
        assert isinstance(one_by_one, str) and isinstance(at_once, str)


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


def test_few_rows_side_by_side_are_what_many_rows_are_one_by_one() -> None:
    rng = np.random.default_rng(6)
    columns = {f"p{i:02d}": rng.normal(i, 3, 2000) for i in range(10)}
    columns["p03"][::5] = np.nan
    columns["p04"] = columns["p04"].astype(np.float32)
    columns["p05"] = columns["p05"].astype(np.int16)
    table = pa.table({**columns, "p06": pa.nulls(2000), "p07": rng.random(2000) < 0.5})
    for fill in ([], [{"step": "impute", "columns": ["p{00..06}", "p08"], "with": "constant", "value": 0.25}]):
        declared = [
            *fill,
            {"step": "clip", "columns": ["p{00..05}"], "lower_quantile": 0.1},
            {"step": "clip", "columns": ["p{01..09}"], "maximum": 4.5},
            {"step": "standardize", "columns": ["p{00..05}"]},
            {"step": "min_max", "columns": ["p{03..05}", "p08", "p09"], "low": -1},
        ]
        preparation = Preparation(fitted(table, *declared).record())
        parts = [preparation.apply(table.slice(start, 100)) for start in range(0, 2000, 100)]
        assert same(preparation.apply(table), pa.concat_tables(parts))


def test_types_stay_where_values_fit() -> None:
    table = pa.table({"n": pa.array([1, None, 300], pa.int16()), "u": pa.array([0, 200, None], pa.uint8())})
    kept = prepare(
        table,
        {"step": "impute", "columns": ["n"], "with": "constant", "value": 5.0},
        {"step": "clip", "columns": ["n", "u"], "minimum": -7, "maximum": 100_000},
    )
    assert kept.schema == table.schema
    assert kept.to_pydict() == {"n": [1, 5, 300], "u": [0, 200, None]}
    low = prepare(table, {"step": "clip", "columns": ["n"], "maximum": -100_000}).column("n")
    assert (low.type, low.to_pylist()) == (pa.float64(), [-100_000, None, -100_000])
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
