from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from lightmill.records.preparation import Impute, Step, expand_family

STEP = TypeAdapter(Step)
EXAMPLES: list[dict[str, Any]] = [
    {"step": "impute", "columns": ["a"], "with": "constant", "value": 0},
    {"step": "clip", "columns": ["a"], "minimum": 0},
    {"step": "standardize", "columns": ["p{00..03}"]},
    {"step": "min_max", "columns": ["a"]},
    {"step": "one_hot", "columns": ["a"], "values": ["x", "y"]},
    {"step": "ordinal", "columns": ["a"]},
    {"step": "text_normalize", "columns": ["a"], "replace": [{"pattern": "x"}]},
    {"step": "tokenize", "column": "a", "file": "tokenizer.json", "length": 8, "mask": True},
    {"step": "pack", "length": 8},
    {"step": "image_decode", "column": "a"},
    {"step": "image_resize", "column": "a", "height": 8, "width": 8},
    {"step": "augment", "columns": ["a"], "operations": [{"op": "flip"}, {"op": "crop", "padding": 1}]},
    {"step": "filter", "where": "a > 0"},
    {"step": "derive", "column": "b", "value": "a + 1"},
    {"step": "deduplicate", "columns": ["a"], "how": "near_text"},
    {
        "step": "python",
        "function": "package.module:function",
        "columns": ["a"],
        "makes": [{"name": "b", "dtype": "float32", "shape": [2]}],
    },
    {"step": "features", "columns": ["a"], "shape": [1]},
]


PYTHON = {"step": "python", "function": "a:b", "columns": ["a"]}


@pytest.mark.parametrize("declared", EXAMPLES, ids=lambda d: d["step"])
def test_every_step_goes_through_json(declared: dict[str, Any]) -> None:
    step = STEP.validate_python(declared)
    assert STEP.validate_json(STEP.dump_json(step)) == step
    assert STEP.validate_python(step.model_dump()) == step
    with pytest.raises(ValidationError, match="Extra inputs"):
        STEP.validate_python({**declared, "colums": []})


def test_with_keeps_its_name() -> None:
    step = STEP.validate_python({"step": "impute", "columns": ["a"], "with": "mean"})
    assert isinstance(step, Impute)
    assert step.method == "mean"
    assert step.model_dump()["with"] == "mean"


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"step": "imputee", "columns": ["a"]}, "does not match any of the expected tags"),
        ({"step": "standardize", "columns": []}, "at least 1 item"),
        ({"step": "standardize", "columns": ["a", "a"]}, r"columns \['a'\] are named twice"),
        ({"step": "standardize", "columns": ["p{0..1}", "p1"]}, r"columns \['p1'\] are named twice"),
        ({"step": "standardize", "columns": ["p{3..1}"]}, "must rise"),
        ({"step": "impute", "columns": ["a"], "with": "constant"}, "`value` belongs to"),
        ({"step": "impute", "columns": ["a"], "with": "mean", "value": 1}, "`value` belongs to"),
        ({"step": "clip", "columns": ["a"]}, "give minimum and maximum, or"),
        ({"step": "clip", "columns": ["a"], "minimum": 1, "upper_quantile": 0.5}, "give minimum and maximum, or"),
        ({"step": "clip", "columns": ["a"], "minimum": 2, "maximum": 1}, "lower limit 2 is more than"),
        ({"step": "clip", "columns": ["a"], "minimum": float("inf")}, "finite number"),
        ({"step": "min_max", "columns": ["a"], "low": 1, "high": 1}, "must be less than high"),
        ({"step": "one_hot", "columns": ["a"], "values": ["x", "x"]}, "one of them twice"),
        ({"step": "one_hot", "columns": ["a"], "values": ["x", 1]}, "mixes types"),
        ({"step": "tokenize", "column": "a", "file": "f", "mask": True}, "give `length`"),
        ({"step": "text_normalize", "columns": ["a"], "replace": [{"pattern": "x" * 1001}]}, "at most 1000"),
        ({"step": "image_resize", "column": "a", "height": 0, "width": 1}, "greater than or equal to 1"),
        ({"step": "filter", "where": "x" * 10_001}, "at most 10000"),
        ({**PYTHON, "makes": []}, "at least 1 item"),
        ({**PYTHON, "makes": [{"name": "b", "dtype": "int64"}] * 2}, "once"),
        ({**PYTHON, "makes": [{"name": "row_id", "dtype": "int64"}]}, "row_id"),
        ({**PYTHON, "makes": [{"name": "b", "dtype": "string", "shape": [2]}]}, "tensors of numbers"),
    ],
)
def test_what_is_wrong_is_said(declared: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        STEP.validate_python(declared)


def test_families_of_columns() -> None:
    assert expand_family("p{08..10}_x") == ("p08_x", "p09_x", "p10_x")
    assert expand_family("plain") == ("plain",)
    with pytest.raises(ValueError, match="at most 100000"):
        expand_family("p{0..100000}")
