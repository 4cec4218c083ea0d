"""Distances between distributions, against what can be computed by hand and from the values themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.datasets.drift import between_categories, between_histograms, distance
from lightmill.records.profile import ColumnSummary, Histogram, TopValue


def histogram(values: np.ndarray, bins: int = 30) -> Histogram:
    counts, edges = np.histogram(values, bins=bins)
    return Histogram(edges=tuple(map(float, edges)), counts=tuple(map(int, counts)), sampled=len(values))


def column(counts: dict[str, int], total: int | None = None, distinct: int | None = None) -> ColumnSummary:
    return ColumnSummary(
        name="c",
        dtype="string",
        role="feature",
        count=total or sum(counts.values()),
        nulls=0,
        distinct=distinct or len(counts),
        distinct_exact=True,
        top=tuple(TopValue(value=name, count=count) for name, count in counts.items()),
    )


def test_the_measures_are_the_formulas() -> None:
    found = distance(np.array([99.5, 99.5]), np.array([49.5, 149.5]))
    p, q = [0.5, 0.5], [50 / 200, 150 / 200]
    assert found.psi == pytest.approx(sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True)))
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    bits = sum(a * math.log2(a / c) + b * math.log2(b / c) for a, b, c in zip(p, q, m, strict=True)) / 2
    assert found.js == pytest.approx(math.sqrt(bits))
    assert found.by_chance == pytest.approx(1 / 199 + 1 / 199)


def test_the_same_histogram_is_at_no_distance_and_a_far_one_at_almost_one() -> None:
    values = np.random.default_rng(0).normal(size=4000)
    here = histogram(values)
    assert between_histograms(here, here).psi == pytest.approx(0, abs=1e-12)
    assert between_histograms(here, here).bins == 10
    far = between_histograms(here, histogram(values + 100))
    assert far.js > 0.85 and far.psi > 1


def test_a_shift_is_about_what_the_values_themselves_say() -> None:
    rng = np.random.default_rng(1)
    old, new = rng.normal(size=50_000), rng.normal(0.3, 1, size=50_000)
    found = between_histograms(histogram(old, 200), histogram(new, 200))
    cuts = np.quantile(old, np.arange(1, 10) / 10)
    shares = [np.histogram(v, [-np.inf, *cuts, np.inf])[0] / len(v) for v in (old, new)]
    assert found.psi == pytest.approx(float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum()), rel=0.1)


def test_chance_alone_gives_about_what_is_said() -> None:
    rng = np.random.default_rng(2)
    psi, said = [], []
    for _ in range(200):
        found = between_histograms(histogram(rng.random(500)), histogram(rng.random(700)))
        psi.append(found.psi)
        said.append(found.by_chance)
    assert np.mean(psi) == pytest.approx(np.mean(said), rel=0.25)


def test_a_column_of_one_value_that_stays_or_moves() -> None:
    one = Histogram(edges=(3.0, 3.0), counts=(100,), sampled=100)
    other = Histogram(edges=(0.0, 0.0), counts=(100,), sampled=100)
    assert between_histograms(one, one).js == pytest.approx(0, abs=1e-6)
    assert between_histograms(one, other).js > 0.9
    assert between_histograms(other, histogram(np.arange(100.0))).js > 0.9


def test_categories_are_compared_by_their_counts() -> None:
    assert between_categories(column({"a": 50, "b": 50}), column({"b": 500, "a": 500})).js < 0.01  # pyright: ignore
    gone = between_categories(column({"a": 50, "b": 50}), column({"a": 100}))
    assert gone is not None and gone.bins == 2 and gone.js > 0.3
    assert between_categories(column({}), column({"a": 1})) is None


def test_values_whose_count_is_not_known_share_a_bin() -> None:
    many = column({f"v{n}": 10 for n in range(20)}, total=1000, distinct=100)
    found = between_categories(many, column({"v0": 10, "x": 990}))
    assert found is not None and found.bins == 2 + 19  # v1 to v19 are known to be gone, x may be among the others
    sampled = many.model_copy(update={"top": (TopValue(value="a", count=3, at_least=True),)})
    assert between_categories(sampled, many) is None


counts = st.lists(st.integers(0, 1000), min_size=1, max_size=40).filter(any)


@st.composite
def histograms(draw: st.DrawFn) -> Histogram:
    found = draw(counts)
    low = draw(st.floats(-1e6, 1e6))
    widths = draw(st.lists(st.floats(1e-3, 1e3), min_size=len(found), max_size=len(found)))
    edges = np.cumsum([low, *widths])
    return Histogram(edges=tuple(map(float, edges)), counts=tuple(found), sampled=sum(found))


@given(histograms(), histograms())
def test_measures_are_finite_and_in_range_for_any_histograms(old: Histogram, new: Histogram) -> None:
    found = between_histograms(old, new)
    assert 0 <= found.js <= 1 and 0 <= found.psi < math.inf and 1 <= found.bins <= 10 and found.by_chance >= 0
    assert between_histograms(old, old).psi == pytest.approx(0, abs=1e-6)
