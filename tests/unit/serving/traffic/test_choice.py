"""Who answers: shares are kept, and a larger share takes requests only where it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.serving.traffic.choice import Shares, point_of, sticky_value
from tests.unit.serving.traffic.plans import plan, target

KNOWN = 27.529097905078014
PERCENT = st.floats(0, 100)
POINT = st.floats(0, 100, exclude_max=True)


def chosen(point: float, *shares: tuple[str, float, bool]) -> str:
    found = Shares(plan(*(target(name, percent, canary=canary) for name, percent, canary in shares))).choose(point)
    return found.name if found else "stable"


@given(fixed=PERCENT, low=PERCENT, more=PERCENT, point=POINT)
def test_a_larger_share_of_the_canary_moves_requests_from_the_stable_version_to_it_only(
    fixed: float, low: float, more: float, point: float
) -> None:
    low, high = sorted((low, more))
    fixed = min(fixed, 100 - high)
    before = chosen(point, ("fixed", fixed, False), ("canary", low, True))
    after = chosen(point, ("fixed", fixed, False), ("canary", high, True))
    assert after == before or (before, after) == ("stable", "canary")


@given(first=PERCENT, second=PERCENT, more=PERCENT, point=POINT)
def test_a_larger_fixed_weight_keeps_its_own_requests(first: float, second: float, more: float, point: float) -> None:
    first, larger = sorted((first, more))
    second = min(second, 100 - larger)
    before = chosen(point, ("a", first, False), ("b", second, False))
    after = chosen(point, ("a", larger, False), ("b", second, False))
    assert before != "a" or after == "a"


@given(endpoint=st.text(min_size=1, max_size=64), value=st.binary(max_size=200))
def test_a_point_is_between_0_and_100_and_always_the_same(endpoint: str, value: bytes) -> None:
    assert 0 <= point_of(endpoint, value) < 100 and point_of(endpoint, value) == point_of(endpoint, value)


def test_the_points_of_values_are_known_and_spread_evenly() -> None:
    assert point_of("digits", b"user-1") == pytest.approx(KNOWN)  # other replicas, other days, other machines
    points = [point_of("digits", b"%d" % n) for n in range(10_000)]
    tenths = [sum(start <= point < start + 10 for point in points) for start in range(0, 100, 10)]
    assert all(880 < count < 1120 for count in tenths)
    elsewhere = [point_of("letters", b"%d" % n) for n in range(10_000)]
    both = sum(one < 10 and other < 10 for one, other in zip(points, elsewhere, strict=True))
    assert 60 < both < 140  # those who are candidates' at one endpoint are not those at another


def test_nobody_and_everybody() -> None:
    assert {chosen(point, ("c", 0.0, True)) for point in (0.0, 50.0, 99.99)} == {"stable"}
    assert {chosen(point, ("c", 100.0, True)) for point in (0.0, 50.0, 99.99)} == {"c"}
    assert [chosen(point, ("a", 50.0, False), ("c", 50.0, True)) for point in (49.9, 50.0)] == ["a", "c"]


def test_what_is_sticky() -> None:
    headers = {b"x-user": b"ada"}
    for sticky, caller, expected in (
        ("none", "k1", None),
        ("key", "k1", b"k1"),
        ("key", "", None),
        ({"header": "X-User"}, "k1", b"ada"),
        ({"header": "x-other"}, "k1", None),
    ):
        assert sticky_value(plan(sticky=_full(sticky)), headers.get, caller) == expected


def _full(sticky: object) -> object:
    return {"by": sticky} if isinstance(sticky, str) else {"by": "header", **sticky}  # pyright: ignore
