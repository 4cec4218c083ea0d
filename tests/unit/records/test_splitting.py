"""Declared splits: what is valid, today's sections among it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lightmill.records.base import Record
from lightmill.records.splitting import (
    SPLIT_ADAPTER,
    AnySplit,
    Comparison,
    DistributionSpec,
    GroupedSplit,
    HashSplit,
    PredicateSplit,
    RandomSplit,
    SequentialSplit,
    StratifiedSplit,
)

EVERY = (
    RandomSplit(seed=3),
    StratifiedSplit(column="kind"),
    SequentialSplit(column="day"),
    GroupedSplit(column="patient"),
    HashSplit(),
    PredicateSplit(test=Comparison(column="land", op="in", value=("FR", "DE"))),
    PredicateSplit(
        test=Comparison(column="year", op=">=", value=2025), validation=Comparison(column="year", op="==", value=2024)
    ),
)


@pytest.mark.parametrize("split", EVERY, ids=lambda split: split.by)
def test_every_kind_goes_through_json_and_is_known_by_its_name(split: Any) -> None:
    assert SPLIT_ADAPTER.validate_json(split.model_dump_json()) == split
    assert SPLIT_ADAPTER.validate_python(split) == split
    with pytest.raises(ValidationError, match="extra"):
        SPLIT_ADAPTER.validate_python({**split.model_dump(), "typing_mistake": 1})


@pytest.mark.parametrize(
    ("today", "split"),
    [
        ({}, StratifiedSplit()),
        ({"stratify": True, "seed": 4}, StratifiedSplit(seed=4)),
        ({"stratify": False}, RandomSplit()),
        ({"train": 0.5, "validation": 0.2, "test": 0.3}, StratifiedSplit(train=0.5, validation=0.2, test=0.3)),
        ({"by": "stratified", "column": "kind"}, StratifiedSplit(column="kind")),
    ],
)
def test_sections_of_today_stay_valid(today: dict[str, Any], split: Any) -> None:
    assert SPLIT_ADAPTER.validate_python(today) == split


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train": 0.9}, "the shares add up to 1.2; make train"),
        ({"train": 1.0}, "less than 1"),
        ({"by": "luck"}, "luck"),
        ({"by": "random", "stratify": True}, "extra"),
        ({"by": "sequential"}, "column"),
        ({"by": "predicate", "test": {"column": "a", "op": "in", "value": 1}}, "needs a list"),
        ({"by": "predicate", "test": {"column": "a", "op": "<", "value": [1]}}, "needs one value"),
        ({"by": "predicate", "test": {"column": "a", "op": "like", "value": "x"}}, "op"),
        ({"seed": -1}, "greater than or equal to 0"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SPLIT_ADAPTER.validate_python(wrong)


class Section(Record):
    """A specification with a split, as a dataset's will have."""

    split: AnySplit = StratifiedSplit()


def test_a_split_is_a_field_of_a_specification() -> None:
    assert Section().split == StratifiedSplit()
    today = Section.model_validate({"split": {"stratify": False, "seed": 2}})
    assert today.split == RandomSplit(seed=2)
    assert Section.model_validate_json(today.model_dump_json()) == today


def test_distribution_by_key_needs_a_column() -> None:
    assert DistributionSpec(by="key", column="patient").column == "patient"
    with pytest.raises(ValidationError, match="by 'key' needs a column"):
        DistributionSpec(by="key")
