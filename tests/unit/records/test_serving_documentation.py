"""The YAML of docs/serving-batching.md and docs/autoscaling.md is read, and says what the defaults are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightmill.records.balancing import BalancingSpec
from lightmill.records.batching import BatchingSpec
from lightmill.records.scaling import SchedulePolicy
from lightmill.records.specs import EndpointSpec, parse_spec

DOCS = Path(__file__).parents[3] / "docs"


def blocks(name: str) -> list[dict[str, Any]]:
    return [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)]


def test_batching_is_documented_with_its_defaults() -> None:
    (block,) = blocks("serving-batching.md")
    spec = parse_spec(EndpointSpec, block, "docs")
    assert set(block["batching"]) == set(BatchingSpec.model_fields)
    assert spec.batching == BatchingSpec(max_rows=256, max_wait_ms=5)


def test_scaling_is_documented() -> None:
    whole, part = blocks("autoscaling.md")
    spec = parse_spec(EndpointSpec, whole, "docs")
    assert set(whole["replicas"]) == set(type(spec.replicas).model_fields)
    assert spec.replicas.policy.name == "forecast"
    assert len(SchedulePolicy.model_validate(part["policy"]).windows) == 2


@pytest.mark.parametrize("name", BalancingSpec.model_fields["name"].annotation.__args__)  # pyright: ignore
def test_every_way_of_balancing_is_in_the_table(name: str) -> None:
    assert f"| `{name}` |" in (DOCS / "autoscaling.md").read_text()
