from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import yaml
from pydantic import TypeAdapter

from lightmill.records.preparation import Step

PAGE = (Path(__file__).parents[4] / "docs" / "preparation.md").read_text(encoding="utf-8")


def test_the_page_has_a_valid_example_of_every_step() -> None:
    examples = [yaml.safe_load(text) for text in re.findall(r"`(\{step: .*?\})` \|", PAGE)]
    found = TypeAdapter(list[Step]).validate_python(examples)
    union = get_args(get_args(Step)[0])
    assert {type(step) for step in found} == set(union)
    assert all(step.model_dump(exclude_unset=True).keys() - {"step"} for step in found)
