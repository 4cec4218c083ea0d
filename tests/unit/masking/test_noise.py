from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from lightmill.errors import RequestError
from lightmill.masking import Masker
from lightmill.masking.noise import add_noise, grid_of, scale_of
from lightmill.records.masking import NoiseRule
from tests.unit.masking.examples import KEY, policy

ROWS = 200_000
IDS = np.arange(ROWS)


def rule(**settings: float) -> NoiseRule:
    return NoiseRule(action="noise", columns=("x",), **settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("epsilon", "sensitivity", "whole"), [(0.5, 10.0, False), (2.0, 1.0, False), (0.1, 1.0, True)])
def test_the_noise_is_laplace_at_a_fixed_seed(epsilon: float, sensitivity: float, whole: bool) -> None:
    """The distance of the empirical from the Laplace distribution function stays below 1.95/sqrt(n): p = 0.001."""
    settings = rule(epsilon=epsilon, sensitivity=sensitivity)
    scale, grid = scale_of(settings, whole=whole), grid_of(settings, whole=whole)
    assert sensitivity / epsilon <= scale <= 1.002 * sensitivity / epsilon
    noise = add_noise(np.full(ROWS, 40.0), IDS, KEY, settings, whole=whole) - np.rint(40.0 / grid) * grid
    points = np.linspace(-4 * scale, 4 * scale, 41)
    points = np.round(points / grid) * grid + grid / 2
    expected = np.where(points < 0, 0.5 * np.exp(points / scale), 1 - 0.5 * np.exp(-points / scale))
    found = np.searchsorted(np.sort(noise), points) / ROWS
    bias = 1.5 * grid / scale if whole else 0.0
    assert np.abs(found - expected).max() < 1.95 / math.sqrt(ROWS) + 0.001 + bias
    assert abs(noise.mean()) < 5 * scale * math.sqrt(2 / ROWS)
    assert np.abs(noise).mean() == pytest.approx(scale, rel=0.02)
    if whole:
        assert (noise == np.rint(noise)).all()


def test_neighbouring_values_are_told_apart_by_the_factor_at_most() -> None:
    """Counts of each result for two values a sensitivity apart; 4 standard deviations of leeway."""
    settings = rule(epsilon=1.0, sensitivity=1.0)
    low = add_noise(np.full(ROWS, 5.0), IDS, KEY, settings, whole=True)
    high = add_noise(np.full(ROWS, 6.0), IDS, KEY, settings, whole=True)
    for result in range(-1, 13):
        one, two = (low == result).sum(), (high == result).sum()
        assert one <= math.e * two + 4 * math.sqrt(one) + 4 * math.e * math.sqrt(two)


def test_a_rerun_gives_the_same_and_nothing_else_does() -> None:
    values = np.linspace(0, 100, 1000)
    ids = np.arange(1000)
    first = add_noise(values, ids, KEY, rule(epsilon=1, sensitivity=1), whole=False)
    assert (first == add_noise(values, ids, KEY, rule(epsilon=1, sensitivity=1), whole=False)).all()
    order = np.random.default_rng(0).permutation(1000)
    assert (
        first[order] == add_noise(values[order], ids[order], KEY, rule(epsilon=1, sensitivity=1), whole=False)
    ).all()
    assert (first != add_noise(values, ids + 1000, KEY, rule(epsilon=1, sensitivity=1), whole=False)).mean() > 0.99
    shifted = add_noise(values + 0.5, ids, KEY, rule(epsilon=1, sensitivity=1), whole=False)
    assert (np.abs(shifted - first - 0.5) > 1e-3).mean() > 0.99


def test_noise_for_two_epsilons_cannot_be_solved_for_the_value() -> None:
    values = pa.table({"x": np.full(1000, 50.0)})
    noise = []
    for epsilon in (1.0, 2.0):
        masker = Masker(policy({"columns": ["x"], "action": "noise", "epsilon": epsilon, "sensitivity": 1.0}), KEY)
        noise.append((masker.apply(values, np.arange(1000))[0]["x"].to_numpy() - 50.0) * epsilon)
    assert abs(np.corrcoef(noise)[0, 1]) < 0.15


def test_bounds_clip_before_and_after() -> None:
    settings = rule(epsilon=1.0, minimum=0.0, maximum=10.0)
    assert settings.reach() == 10.0
    noisy = add_noise(np.array([-1e300, 5.0, 1e300, np.inf, -np.inf, np.nan]), np.arange(6), KEY, settings, whole=False)
    assert np.isnan(noisy[5]) and ((noisy[:5] >= 0) & (noisy[:5] <= 10)).all()


def test_what_float64_cannot_hold_is_refused() -> None:
    with pytest.raises(RequestError, match="too fine for values as large as these.*minimum and maximum"):
        add_noise(np.array([1e18]), np.arange(1), KEY, rule(epsilon=1, sensitivity=0.001), whole=False)


def test_columns_keep_nulls_and_become_float64_or_int64() -> None:
    table = pa.table(
        {
            "x": pa.array([1.0, None, float("nan")], pa.float32()),
            "n": pa.array([100, None, -7], pa.int8()),
            "u": ["a", "b", "c"],
        }
    )
    masker = Masker(policy({"columns": ["x", "n"], "action": "noise", "epsilon": 0.5, "sensitivity": 1.0}), KEY)
    masked, report = masker.apply(table, pa.array([7, 8, 9]))
    assert masked.schema.field("x").type == pa.float64() and masked.schema.field("n").type == pa.int64()
    assert masked["x"].null_count == masked["n"].null_count == 1 and math.isnan(masked["x"][2].as_py())
    assert report.epsilon == {"n": 0.5, "x": 0.5} and report.epsilon_per_row() == 1.0
    assert masker.schema(table.schema) == masked.schema
    for bad in (None, np.arange(2), np.array([0.5, 1, 2])):
        with pytest.raises(RequestError, match="row id|row_ids must be 3 whole numbers"):
            masker.apply(table, bad)
    with pytest.raises(RequestError, match="column 'u': noise needs a number, but the column is string"):
        Masker(policy({"columns": ["u"], "action": "noise", "epsilon": 1, "sensitivity": 1}), KEY).apply(table, IDS[:3])
