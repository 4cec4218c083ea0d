"""Declared columns, rules and expectations: what is valid, and what is said of what is not."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from lightmill.records import profile, quality, splitting
from lightmill.records.base import Record
from lightmill.records.quality import SCALARS, Bounds, ColumnRule, ExpectSpec, RulesSpec
from tests.unit.records.quality_examples import EXAMPLES


def test_there_is_an_example_of_every_record() -> None:
    kinds = {
        kind
        for module in (profile, quality, splitting)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Record) and kind.__module__ == module.__name__
    }
    assert {type(record) for record in EXAMPLES} == kinds


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_a_record_goes_through_json_and_comes_back_equal(record: Any) -> None:
    assert type(record).model_validate_json(record.model_dump_json()) == record
    with pytest.raises(ValidationError, match="extra"):
        type(record).model_validate({**record.model_dump(mode="json"), "typing_mistake": 1})


@pytest.mark.parametrize("dtype", [*SCALARS, *(f"list<{name}>" for name in SCALARS)])
def test_every_dtype_and_lists_of_it_are_declared_by_name(dtype: str) -> None:
    column = ColumnRule(name="c", dtype=dtype)
    assert column.dtype == dtype
    assert column.scalar in SCALARS
    assert column.container == ("list" if dtype.startswith("list") else None)


def test_a_family_stands_for_its_columns() -> None:
    assert ColumnRule(name="p{08..11}x", dtype="int64").names() == ("p08x", "p09x", "p10x", "p11x")


@pytest.mark.parametrize(
    "today",
    [
        {"name": "p{00..63}", "dtype": "int64", "role": "feature", "minimum": 0, "maximum": 16},
        {"name": "digit", "dtype": "int64", "role": "label", "values": [0, 1, 2]},
        {"name": "note", "dtype": "string", "role": "ignore", "tags": ["email"]},
    ],
)
def test_columns_and_rules_of_the_first_version_stay_valid(today: dict[str, Any]) -> None:
    column = ColumnRule.model_validate(today)
    assert column.model_dump(mode="json", exclude_defaults=True).items() <= today.items()
    rules = {"missing": "drop", "out_of_range": "clip", "duplicates": "keep"}
    assert RulesSpec.model_validate(rules).out_of_range == "clip"


def test_dates_of_yaml_become_text() -> None:
    column = ColumnRule.model_validate({"name": "d", "dtype": "date", "minimum": date(2020, 1, 1), "role": "time"})
    assert column.minimum == "2020-01-01"
    assert ColumnRule.model_validate_json(column.model_dump_json()) == column


def test_a_column_is_required_unless_it_is_ignored_or_may_be_null() -> None:
    assert ColumnRule(name="c", dtype="string").required
    assert not ColumnRule(name="c", dtype="string", role="ignore").required
    assert not ColumnRule(name="c", dtype="string", max_nulls=0.0).required


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dtype": "decimal"}, "dtype must be one of int8"),
        ({"dtype": "list<list<int8>>"}, "dtype must be one of"),
        ({"dtype": "tensor<int8>"}, "shape belongs to dtype tensor"),
        ({"dtype": "int8", "shape": [2]}, "shape belongs to dtype tensor"),
        ({"dtype": "tensor<int8>", "shape": [1 << 13, 1 << 13]}, "more than 16777216 values"),
        ({"dtype": "string", "minimum": 1}, "minimum and maximum need numbers"),
        ({"dtype": "int64", "minimum": "2020-01-01"}, "limits of a int64 are numbers"),
        ({"dtype": "date", "minimum": 5}, "ISO 8601 text"),
        ({"dtype": "date", "minimum": "soon"}, "Invalid isoformat"),
        ({"dtype": "int64", "minimum": 2, "maximum": 1}, "minimum 2 is more than maximum 1"),
        ({"dtype": "int64", "values": [1, "1"]}, "holds one of them twice"),
        ({"dtype": "list<int64>", "unique": True}, "for single values"),
        ({"dtype": "int64", "pattern": "a"}, "pattern is for texts"),
        ({"dtype": "string", "pattern": "("}, "no regular expression"),
        ({"dtype": "string", "pattern": "a" * 1001}, "at most 1000"),
        ({"dtype": "string", "max_nulls": 1.5}, "less than or equal to 1"),
        ({"dtype": "int64", "name": "p{5..1}"}, "must rise"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_value(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ColumnRule.model_validate({"name": "c", **wrong})


def test_bounds_are_inclusive_and_say_what_they_are() -> None:
    assert Bounds(minimum=1, maximum=2).admits(1)
    assert Bounds(minimum=1, maximum=2).admits(2)
    assert not Bounds(minimum=1).admits(0.5)
    assert not Bounds().admits(float("nan"))
    assert str(Bounds(minimum=1, maximum=2)) == "at least 1 and at most 2"
    assert str(ExpectSpec().rows) == "any"
    with pytest.raises(ValidationError, match="minimum 2 is more"):
        Bounds(minimum=2, maximum=1)
