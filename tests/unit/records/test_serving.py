"""What an endpoint says of batching, balancing and scaling: short forms, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lightmill.errors import RequestError
from lightmill.records.scaling import ForecastPolicy, LatencyPolicy, QueuePolicy, days_of, minute_of
from lightmill.records.specs import EndpointSpec, parse_spec

ENDPOINT: dict[str, Any] = {"name": "e", "model": "m"}


def read(**more: Any) -> EndpointSpec:
    return parse_spec(EndpointSpec, ENDPOINT | more, "here")


def test_a_bare_name_is_a_policy_or_a_balancing() -> None:
    spec = read(replicas={"max": 3, "policy": "forecast"}, balancing="round_robin")
    assert spec.replicas.policy == ForecastPolicy()
    assert spec.balancing.name == "round_robin"
    assert (read().replicas.policy, read().balancing.name) == (QueuePolicy(), "least_loaded")
    latency = read(replicas={"policy": {"name": "latency", "objective_ms": 20}})
    assert latency.replicas.policy == LatencyPolicy(objective_ms=20)
    assert read(balancing={"name": "hash", "header": "X-Customer-Id"}).balancing.header == "x-customer-id"
    assert read(batching={"length_buckets": [16, 64]}).batching.length_buckets == (16, 64)


SCHEDULE = {"name": "schedule", "windows": [{"min": 2}]}


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"replicas": {"policy": "magic"}}, ("replicas.policy", "'queue'", "'forecast'")),
        ({"replicas": {"policy": "latency"}}, ("objective_ms", "missing")),
        ({"replicas": {"policy": "schedule"}}, ("windows", "missing")),
        ({"replicas": {"policy": SCHEDULE | {"windows": []}}}, ("windows", "at least 1 item")),
        ({"replicas": {"policy": SCHEDULE}}, ("more replicas than max 1", "raise max")),
        ({"replicas": {"policy": SCHEDULE | {"timezone": "Mars/Olympus"}}}, ("Mars/Olympus", "Europe/Berlin")),
        ({"replicas": {"policy": SCHEDULE | {"windows": [{"min": 1, "days": "mon-foo"}]}}}, ("mon-foo", "mon-fri")),
        ({"replicas": {"policy": SCHEDULE | {"windows": [{"min": 1, "start": "25:00"}]}}}, ("25:00", "24:00")),
        ({"replicas": {"policy": SCHEDULE | {"windows": [{"min": 2, "max": 1}]}}}, ("min 2 is more than max 1",)),
        ({"replicas": {"policy": {"name": "forecast", "season_s": 100, "bucket_s": 30}}}, ("season_s 100", "whole")),
        ({"replicas": {"look_back_s": 5}}, ("look_back_s", "greater than 10")),
        ({"replicas": {"polcy": "queue"}}, ("unknown key 'replicas.polcy'",)),
        ({"balancing": "fastest"}, ("balancing", "'round_robin'", "'fastest'")),
        ({"balancing": {"name": "hash", "header": "x; evil"}}, ("header", "x-session-id")),
        ({"balancing": {"name": "hash", "header": ""}}, ("header", "no name of an HTTP header")),
        ({"balancing": {"bound": 1}}, ("bound", "greater than 1")),
        ({"batching": {"length_buckets": [64, 16]}}, ("[64, 16]", "rising order")),
        ({"batching": {"length_buckets": []}}, ("rising order",)),
        ({"batching": {"timeout_ms": 0}}, ("timeout_ms", "greater than 0")),
        ({"batching": {"max_queue_rows": 0}}, ("max_queue_rows",)),
    ],
    ids=str,
)
def test_a_mistake_is_named(more: dict[str, Any], named: tuple[str, ...]) -> None:
    with pytest.raises(RequestError) as caught:
        read(**more)
    assert [part for part in named if part not in caught.value.message] == [], caught.value.message


@pytest.mark.parametrize(
    ("text", "days"),
    [("*", set(range(7))), ("mon", {0}), ("mon-fri", set(range(5))), ("sat,SUN", {5, 6}), ("fri-mon", {4, 5, 6, 0})],
)
def test_days_are_cron_s(text: str, days: set[int]) -> None:
    assert days_of(text) == days


def test_times_go_to_the_end_of_the_day() -> None:
    assert [minute_of(text) for text in ("00:00", "08:30", "24:00")] == [0, 510, 1440]
    for wrong in ("24:01", "8:30", "08:60", ""):
        with pytest.raises(ValueError, match="no time of a day"):
            minute_of(wrong)
