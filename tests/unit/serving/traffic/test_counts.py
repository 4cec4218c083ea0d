"""Counts add up over replicas, can be taken apart, and quantiles lie where they should."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lightmill.serving.traffic.counts import BOUNDS_S, Counts, less, quantile, together

SECONDS = st.lists(st.floats(0.00001, 50), min_size=1, max_size=200)


def counted(seconds: list[float], name: str = "c", version: str = "5") -> Counts:
    found = Counts(name, version)
    for one in seconds:
        found.answered(one)
    return found


@given(seconds=SECONDS, share=st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_lies_in_the_class_of_the_true_one(seconds: list[float], share: float) -> None:
    found = quantile(counted(seconds).record().seconds, share)
    true = float(np.quantile(seconds, share, method="inverted_cdf"))
    place = int(np.searchsorted(BOUNDS_S, true))
    low, high = (0.0, *BOUNDS_S)[place], (*BOUNDS_S, 1e9)[place]
    assert found is not None and low <= found <= high


@given(first=SECONDS, second=SECONDS)
def test_replicas_add_up_and_what_was_before_is_taken_off(first: list[float], second: list[float]) -> None:
    one, other = counted(first), counted(second)
    one.failed()
    sums = together([one.record(), other.record(), counted(first, "d").record()])
    both = sums[("c", "5")]
    assert both.requests == len(first) + len(second) + 1 and both.errors == 1 and set(sums) == {("c", "5"), ("d", "5")}
    before = one.record()
    for seconds in second:
        one.answered(seconds)
    since = less(one.record(), before)
    assert since.requests == len(second) and since.errors == 0 and less(before, None) == before
    assert since.seconds is not None and other.record().seconds is not None
    assert since.seconds.counts == other.record().seconds.counts  # pyright: ignore[reportOptionalMemberAccess]


def test_nothing_counted_has_no_quantile() -> None:
    assert quantile(None, 0.5) is None and quantile(Counts("c", "1").record().seconds, 0.5) is None
    assert quantile(counted([100.0]).record().seconds, 0.5) == BOUNDS_S[-1]
