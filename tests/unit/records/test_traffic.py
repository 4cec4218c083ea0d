"""Traffic in endpoint.yaml: what it means, and that nonsense is refused with the field, the value and what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightmill.errors import RequestError
from lightmill.records.specs import EndpointSpec, parse_spec
from lightmill.records.traffic import CanarySpec, DifferencesSpec, StickySpec, TrafficSpec

DOCS = Path(__file__).parents[3] / "docs" / "traffic.md"


def spec(*candidates: dict[str, Any], model: str = "m@champion", **traffic: Any) -> EndpointSpec:
    given = {"name": "e", "model": model, "traffic": {"candidates": list(candidates), **traffic}}
    return parse_spec(EndpointSpec, given, "endpoint.yaml")


def one(name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"name": name, "model": "m@2", **fields}


def test_an_endpoint_has_no_traffic_unless_it_says_so() -> None:
    assert parse_spec(EndpointSpec, {"name": "e", "model": "m"}, "endpoint.yaml").traffic is None


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("none", StickySpec()),
        ("key", StickySpec(by="key")),
        ({"header": "X-User"}, StickySpec(by="header", header="x-user")),
    ],
)
def test_sticky_is_written_short(given: object, meant: StickySpec) -> None:
    assert spec(one(weight=1), sticky=given).traffic.sticky == meant  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize(
    ("candidates", "traffic", "words"),
    [
        ([], {}, ["traffic", "0 entries", "leave traffic out"]),
        ([one("a", weight=60), one("b", weight=41)], {}, ["101 percent", "100 at most"]),
        ([one("a", weight=1), one("b", canary={})], {}, ["101 percent", "last step"]),
        (
            [one("a", canary={"steps": [1]}), one("b", canary={"steps": [2]})],
            {},
            ["a, b are canaries", "one at a time"],
        ),
        ([one("a", weight=1), one("a", weight=1)], {}, ["'a' twice"]),
        ([one()], {}, ["'a' has no role", "weight, canary and shadow"]),
        ([one(weight=1, shadow=0.5)], {}, ["weight and shadow", "give it one"]),
        ([one("stable", weight=1)], {}, ["'stable'", "taken"]),
        ([one("a~b", weight=1)], {}, ["'a~b'", "a-z, 0-9"]),
        ([one(weight=101)], {}, ["candidates.0.weight", "101"]),
        ([one(shadow=1.5)], {}, ["candidates.0.shadow", "1.5"]),
        ([one(weight=1, replicas={"min": 0})], {}, ["'a' answers requests", "replicas.min must be 1"]),
        ([one(canary={"steps": [5, 1]})], {}, ["[5.0, 1.0] do not grow"]),
        ([one(canary={"steps": [0]})], {}, ["above 0"]),
        ([one(canary={"steps": [1, 2], "bake_s": [1]})], {}, ["1 times for 2 steps"]),
        ([one(canary={"bake_s": -1})], {}, ["bake_s", "seconds from 0"]),
        ([one(canary={"max_error_rate": 2})], {}, ["max_error_rate", "2"]),
        ([one(canary={"on_sucess": "hold"})], {}, ["unknown key", "on_sucess"]),
        ([one(weight=1)], {"stick": "key"}, ["unknown key", "traffic.stick"]),
        ([one(weight=1)], {"sticky": {"header": "a b"}}, ["sticky.header", "'a b'", "x-session-id"]),
        ([one(weight=1)], {"sticky": "cookie"}, ["traffic.sticky", "'cookie'"]),
        ([one(canary={})], {"model": "m@3"}, ["m@3 is no alias", "on_success: hold"]),
        ([one(canary={})], {"model": "m@latest"}, ["m@latest is no alias"]),
        ([one(canary={})], {"model": "other"}, ["a version of 'm'", "'other'", "on_success: hold"]),
        ([one(shadow=1)], {"differences": {"masking": "a@b@c"}}, ["a@b@c"]),
    ],
)
def test_nonsense_is_refused(candidates: list[dict[str, Any]], traffic: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        spec(*candidates, **traffic)
    assert [word for word in words if word not in caught.value.message] == []


def test_what_cannot_be_promoted_may_be_held() -> None:
    held = one(canary={"on_success": "hold"})
    assert spec(held, model="m@3").traffic and spec(held, model="other").traffic


def test_the_documentation_says_what_there_is_with_its_defaults() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    block = yaml.safe_load(text)
    found = parse_spec(EndpointSpec, block, "docs").traffic
    assert found is not None and set(block["traffic"]) == set(TrafficSpec.model_fields)
    canary = next(each for each in block["traffic"]["candidates"] if "canary" in each)["canary"]
    assert set(canary) == set(CanarySpec.model_fields)
    assert found.canary and found.canary.canary == CanarySpec(p99_ms=250, steps=(1, 5, 25, 50))
    assert found.differences == DifferencesSpec(masking="staff@2")
