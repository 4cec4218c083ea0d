"""Encodings, text and the assembly of features."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import RequestError
from lightmill.models.preparation import Preparation
from lightmill.models.preparation.images import tensor
from lightmill.records.fitted import FittedOneHot, FittedPreparation
from tests.unit.models.preparation.examples import fitted, prepare

KINDS = pa.table({"row_id": range(5), "kind": ["b", None, "a", "c", "b"]})


def coded(table: pa.Table, step: str, **more: Any) -> list[Any]:
    made = prepare(table, {"step": step, "columns": ["kind"], **more}).column("kind")
    return made.combine_chunks().storage.to_pylist() if step == "one_hot" else made.to_pylist()


def test_one_hot_by_hand() -> None:
    assert coded(KINDS, "one_hot", values=["b", "a"]) == [[1, 0], [0, 0], [0, 1], [0, 0], [1, 0]]
    other = coded(KINDS, "one_hot", values=["b", "a"], unknown="other")
    assert other == [[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert coded(KINDS, "one_hot", min_count=2, unknown="other")[0:3] == [[1, 0], [0, 0], [0, 1]]


def test_ordinal_by_hand() -> None:
    assert coded(KINDS, "ordinal") == [1, None, 0, 2, 1]
    assert coded(KINDS, "ordinal", values=["c", "b"]) == [1, None, 2, 0, 1]


@pytest.mark.parametrize("step", ["one_hot", "ordinal"])
def test_unknown_categories_can_be_refused(step: str) -> None:
    with pytest.raises(RequestError, match="'kind' has 1 unknown categories, the first 'c'; known are b, a"):
        coded(KINDS, step, values=["b", "a"], unknown="error")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array([3, None, 5], pa.uint8()), (3, 5)),
        (pa.array([2**63 + 1, None, 5], pa.uint64()), (5, 2**63 + 1)),
        (pa.array([True, None, False]), (False, True)),
        (pa.array(["x", None, "y"], pa.large_string()), ("x", "y")),
        (pa.array(["x", None, "y"]).dictionary_encode(), ("x", "y")),
    ],
    ids=str,
)
def test_categories_of_any_type_go_through_json(column: pa.Array, values: tuple[Any, ...]) -> None:
    table = pa.table({"kind": column})
    record = fitted(table, {"step": "ordinal", "columns": ["kind"]}).record()
    restored = FittedPreparation.model_validate_json(record.model_dump_json())
    assert restored.steps[0].categories == (values,)
    assert [type(x) for x in restored.steps[0].categories[0]] == [type(x) for x in values]
    codes = [None if x is None else values.index(x) for x in column.to_pylist()]
    assert Preparation(restored).apply(table).column("kind").to_pylist() == codes


@pytest.mark.parametrize(("kind", "values"), [(["a"], [1]), ([1], ["a"]), ([1.5], [1]), ([1], [True])])
def test_categories_of_another_type_are_refused(kind: list[Any], values: list[Any]) -> None:
    with pytest.raises(RequestError, match="of the column's type"):
        coded(pa.table({"kind": kind}), "one_hot", values=values)


def normalized(text: str | None, **more: Any) -> str | None:
    table = pa.table({"text": pa.array([text], pa.string())})
    return prepare(table, {"step": "text_normalize", "columns": ["text"], **more}).column("text")[0].as_py()


@given(st.text())
@settings(max_examples=40, deadline=None)
def test_normal_forms_are_those_of_the_standard_library(text: str) -> None:
    known = "".join(c for c in text if unicodedata.category(c) not in ("Cn", "Cs"))
    assert normalized(known, whitespace=False) == unicodedata.normalize("NFKC", known)
    assert normalized(known, unicode=None, whitespace=False) == known
    once = normalized(known, lower=True, strip_accents=True)
    assert once == once.strip()


@pytest.mark.parametrize(
    ("text", "more", "wanted"),
    [
        (None, {}, None),
        ("  a \t\n b\u00a0\u2003c  ", {}, "a b c"),
        ("Ünïcödé", {"strip_accents": True}, "Unicode"),
        ("ÄÖ", {"lower": True}, "äö"),
        ("\ufb01\uff11", {}, "fi1"),
        ("a1b22", {"replace": [{"pattern": "[0-9]+", "replacement": "#"}]}, "a#b#"),
        (
            "ab",
            {"replace": [{"pattern": "(a)(b)", "replacement": r"\2\1"}, {"pattern": "b", "replacement": "c"}]},
            "ca",
        ),
    ],
)
def test_text_by_hand(text: str | None, more: dict[str, Any], wanted: str | None) -> None:
    assert normalized(text, **more) == wanted


@pytest.mark.parametrize(
    ("pattern", "replacement"), [("(?=a)", ""), ("(", ""), (r"(a)\1", ""), ("a", r"\1"), ("a{5000}", "")]
)
def test_patterns_outside_re2_are_refused(pattern: str, replacement: str) -> None:
    with pytest.raises(RequestError, match="RE2 syntax"):
        normalized("a", replace=[{"pattern": pattern, "replacement": replacement}])


def test_a_pattern_that_blows_up_elsewhere_is_linear_here() -> None:
    assert normalized("a" * 50_000 + "!", replace=[{"pattern": "(a+)+$"}]) == "a" * 50_000 + "!"


def test_replacements_cannot_fill_the_memory() -> None:
    grow = {"pattern": "a", "replacement": "a" * 1000}
    with pytest.raises(RequestError, match="1,073,741,824"):
        normalized("a" * 1100, replace=[grow] * 2)


def test_features_stand_in_declared_order() -> None:
    table = pa.table(
        {
            "row_id": [1, 2],
            "x": [1.0, 2.0],
            "n": pa.array([3, 4], pa.int8()),
            "flag": [True, False],
            "wide": tensor(np.array([[5, 6], [7, 8]], dtype=np.uint8)),
            "fixed": pa.array([[9.0], [10.0]], pa.list_(pa.float64(), 1)),
            "tokens": [[1], [2, 3]],
        }
    )
    columns = ["wide", "x", "flag", "n", "fixed"]
    made = prepare(table, {"step": "features", "columns": columns, "shape": [2, 3], "keep": False})
    assert made.column_names == ["row_id", "tokens", "features"]
    assert made.column("features").type == pa.fixed_shape_tensor(pa.float32(), (2, 3))
    dense = made.column("features").combine_chunks().to_numpy_ndarray()
    assert dense.tolist() == [[[5, 6, 1], [1, 3, 9]], [[7, 8, 2], [0, 4, 10]]]
    kept = prepare(table, {"step": "features", "columns": columns, "name": "inputs"})
    assert kept.column_names == [*table.column_names, "inputs"]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), 1e39])
def test_features_are_finite(value: float | None) -> None:
    table = pa.table({"row_id": [7, 8], "x": [1.0, 2.0], "y": [1.0, value]})
    with pytest.raises(RequestError, match="'y' in row_id 8"):
        prepare(table, {"step": "features", "columns": ["x", "y"]})


def test_large_features_that_add_up_beyond_the_largest_float_are_taken() -> None:
    table = pa.table({"x": [3e38, 3e38], "y": [3e38, -3e38]})
    assert len(prepare(table, {"step": "features", "columns": ["x", "y"]})) == 2


@pytest.mark.parametrize(
    ("column", "shape", "says"),
    [
        (pa.array(["a"]), None, "neither a number nor a tensor"),
        (pa.array([["a"]], pa.list_(pa.string(), 1)), None, "holds string"),
        (pa.array([1.0]), [2], r"shape \[2\] holds 2 values, but the columns give 1"),
        (tensor(np.ones((1, 2)), np.array([True])), None, "is missing"),
    ],
)
def test_what_is_no_feature_is_refused(column: pa.Array, shape: list[int] | None, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        prepare(pa.table({"x": column}), {"step": "features", "columns": ["x"], "shape": shape})


def test_an_empty_record_gives_the_table_back() -> None:
    assert Preparation(FittedPreparation()).apply(KINDS) is KINDS
    with pytest.raises(RequestError, match="2 row ids for 5 rows"):
        Preparation(FittedPreparation()).apply(KINDS.drop_columns(["row_id"]), row_ids=np.arange(2))
    with pytest.raises(RequestError, match="has a column `row_id` already"):
        Preparation(FittedPreparation()).apply(KINDS, row_ids=np.arange(5))


def test_a_fitted_record_is_checked() -> None:
    with pytest.raises(ValueError, match="2 columns but 1 fitted"):
        FittedOneHot(columns=("a", "b"), categories=(("x",),))
