"""docs/masking.md names every detector and action, and its example works."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import yaml

from lightmill.masking import DETECTORS, GROUPS, Masker
from lightmill.records.masking import MaskingRule, parse_masking_policy
from tests.unit.masking.examples import KEY

PAGE = (Path(__file__).parents[3] / "docs" / "masking.md").read_text(encoding="utf-8")


def rows_of(section: str) -> list[str]:
    """The names in the first cells of a section's table."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_every_detector_and_action_stands_in_its_table() -> None:
    assert sorted(rows_of("Detectors")) == sorted(DETECTORS)
    actions = [get_args(kind.model_fields["action"].annotation)[0] for kind in get_args(MaskingRule)]
    assert rows_of("Actions") == actions
    assert all(f"`{group}`" in PAGE for group in GROUPS)


def test_the_example_works() -> None:
    policy = parse_masking_policy(yaml.safe_load(PAGE.split("```yaml")[1].split("```")[0])["masking"], "example")
    masker = Masker(policy, KEY, tags={"born": ["date_of_birth"]})
    table = pa.table(
        {
            "employee_id": [17],
            "born": [date(1990, 5, 17)],
            "salary": [3000.0],
            "notes": ["a@b.de at 203.0.113.7"],
        }
    )
    masked, report = masker.apply(table, np.array([1]))
    row = masked.to_pylist()[0]
    assert len(row["employee_id"]) == 26 and row["born"] == "1990" and row["notes"] == "[email] at 203.0.113.7"
    assert 0 <= row["salary"] <= 20000 and report.epsilon == {"salary": 1.0}
    assert masker.text("call +1 212 555 0123") == "call [phone]"
