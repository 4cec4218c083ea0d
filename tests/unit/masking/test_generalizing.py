from __future__ import annotations

import math
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import RequestError
from lightmill.masking import Masker
from lightmill.masking.generalizing import coarse_date, first_characters, network_of, parse_date, ranges
from lightmill.records.masking import GeneralizeRule
from tests.unit.masking.examples import policy


def rule(**settings: object) -> GeneralizeRule:
    return GeneralizeRule.model_validate({"action": "generalize", "columns": ["x"], **settings})


def masked(values: object, **settings: object) -> list[object]:
    done, _ = Masker(policy({"columns": ["x"], "action": "generalize", **settings})).apply(pa.table({"x": values}))
    return done["x"].to_pylist()


def test_numbers_become_ranges() -> None:
    assert masked([20, 29, 30, -1, None], width=10) == ["[20, 30)", "[20, 30)", "[30, 40)", "[-10, 0)", None]
    assert masked([0.05, 0.25], width=0.1) == ["[0, 0.1)", "[0.2, 0.3)"]
    assert masked([-5, 0, 17, 18, 99], edges=[0, 18, 65]) == [
        "[-inf, 0)", "[0, 18)", "[0, 18)", "[18, 65)", "[65, inf)",
    ]  # fmt: skip
    assert masked([21.5, None, math.nan], width=10, lower_bound=True)[0] == 20.0
    assert masked(["21", " 30 ", "old", None], width=10) == ["[20, 30)", "[30, 40)", "[x]", None]
    assert masked(["21", "old"], width=10, lower_bound=True) == [20.0, None]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=30),
    st.one_of(st.floats(0.01, 1e6), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5, unique=True).map(sorted)),
)
def test_ranges_hold_their_values_and_never_turn_the_order(values: list[float], how: float | list[float]) -> None:
    settings_of = {"edges": how} if isinstance(how, list) else {"width": how, "lower_bound": True}
    found = ranges(np.array(sorted(values)), rule(**settings_of)).to_pylist()
    if isinstance(how, list):
        lows = [float(text[1:].split(",")[0]) for text in found]
        assert lows == sorted(lows)
    else:
        assert found == sorted(found)
        assert all(low <= value + abs(value) * 1e-9 + 1e-6 for low, value in zip(found, sorted(values), strict=True))


def test_dates_become_coarser() -> None:
    day = date(2024, 5, 17)
    assert [coarse_date(day, step) for step in ("month", "quarter", "year", "decade")] == [
        "2024-05", "2024-Q2", "2024", "2020s",
    ]  # fmt: skip
    assert masked([day, None], date="month") == ["2024-05", None]
    late = datetime(2024, 12, 31, 23, 30, tzinfo=UTC)
    assert masked(pa.array([late], pa.timestamp("us", tz="UTC")), date="year") == ["2024"]
    assert masked(pa.array([late], pa.timestamp("us", tz="Asia/Tokyo")), date="year") == ["2025"]
    assert masked(["2024-05-17T10:00:00Z", "17.5.2024", "2024-99-99", None], date="year") == [
        "2024",
        "[x]",
        "[x]",
        None,
    ]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.dates(date(1000, 1, 1)), min_size=2, max_size=20),
    st.sampled_from(["month", "quarter", "year", "decade"]),
)
def test_coarser_dates_never_turn_the_order(days: list[date], step: str) -> None:
    found = [coarse_date(day, step) for day in sorted(days)]  # pyright: ignore[reportArgumentType]
    assert found == sorted(found)
    assert all(parse_date(day.isoformat()) == day for day in days)


def test_addresses_become_networks() -> None:
    assert network_of("203.0.113.77", 24, 48) == "203.0.113.0/24"
    assert network_of(" 2001:db8:1:2::5 ", 24, 48) == "2001:db8:1::/48"
    assert network_of("host", 24, 48) is None
    assert masked(["203.0.113.77", "host", None], network=16) == ["203.0.0.0/16", "[x]", None]
    masker = Masker(policy({"detectors": ["ip"], "action": "generalize", "network": 24}))
    once = masker.text("from 203.0.113.77 to 2001:db8:1:2::5")
    assert once == "from 203.0.113.0/24 to 2001:db8:1::/48"


def test_postcodes_keep_their_first_characters() -> None:
    assert first_characters("SW1A 1AA", 3) == "SW1* ***"
    assert masked(["90210-1234", 90210 and "10115"], characters=2) == ["90***-****", "10***"]
    assert masked(pa.array([90210]), characters=3) == ["902**"]


@pytest.mark.parametrize(("values", "settings", "said"), [
    ([True], {"width": 1}, "generalize needs a number or text, but the column is bool"),
    ([1.5], {"date": "year"}, "generalize needs a date, a timestamp or text, but the column is double"),
    ([1.5], {"characters": 3}, "generalize needs text, a whole number, a decimal or a date, but the column is double"),
])  # fmt: skip
def test_a_column_of_another_type_is_refused(values: object, settings: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        masked(values, **settings)
