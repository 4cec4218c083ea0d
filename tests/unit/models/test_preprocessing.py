from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lightmill.errors import RequestError
from lightmill.models.preprocessing import Moments, Preparation, fit_standardize
from lightmill.records.signature import Preprocessing, Standardize

ROWS = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 30), st.just(3)), elements=st.floats(-1e3, 1e3, allow_subnormal=False)
)


@given(ROWS)
def test_moments_are_those_of_numpy(rows: np.ndarray) -> None:
    mean, std = Moments.of(rows).mean_and_std()
    np.testing.assert_allclose(mean, rows.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(np.square(std), rows.var(axis=0), atol=1e-6)


@given(ROWS, ROWS, ROWS)
def test_moments_add_up_over_blocks_in_any_order(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    whole = Moments.of(np.concatenate([a, b, c]))
    for parts in (Moments.of(a) + Moments.of(b) + Moments.of(c), Moments.of(c) + (Moments.of(a) + Moments.of(b))):
        assert parts.count == whole.count
        np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-9, atol=1e-6)
        np.testing.assert_allclose(parts.deviations, whole.deviations, rtol=1e-9, atol=1e-6)


@given(ROWS)
def test_prepared_training_rows_have_mean_zero_and_deviation_one(rows: np.ndarray) -> None:
    record = Preprocessing(steps=(fit_standardize(Moments.of(rows)),))
    prepared = Preparation(record).apply(rows.astype(np.float32))
    assert prepared.dtype == np.float32
    varied = rows.std(axis=0) > 1
    np.testing.assert_allclose(prepared.mean(axis=0)[varied], 0, atol=2e-2)
    np.testing.assert_allclose(prepared.std(axis=0)[varied], 1, atol=2e-2)


def test_a_constant_feature_keeps_scale_one_and_becomes_zero() -> None:
    rows = np.array([[5.0, 1.0], [5.0, 3.0]])
    step = fit_standardize(Moments.of(rows))
    assert (step.mean, step.scale) == ((5.0, 2.0), (1.0, 1.0))
    assert Preparation(Preprocessing(steps=(step,))).apply(rows.astype(np.float32)).tolist() == [[0, -1], [0, 1]]


@pytest.mark.parametrize("value", [0.1, 1e6 + 0.1, 123456789.123])
def test_a_constant_feature_of_any_size_keeps_scale_one(value: float) -> None:
    """Sums of squares lose digits: the tiny deviation that is left must not become a huge factor."""
    step = fit_standardize(Moments.of(np.full((1000, 1), value)))
    assert step.scale == (1.0,)


def test_a_large_offset_does_not_hide_the_deviation() -> None:
    rows = np.array([[1e9], [1e9 + 1], [1e9 + 2], [1e9 + 3]])
    _, std = Moments.of(rows).mean_and_std()
    np.testing.assert_allclose(std, rows.std(axis=0), rtol=0.01)


def test_nothing_to_fit_on_is_refused() -> None:
    with pytest.raises(RequestError, match="no rows"):
        fit_standardize(Moments.of(np.empty((0, 2))))


def test_a_fit_goes_through_json_and_prepares_the_same() -> None:
    rows = np.random.default_rng(2).normal(3, 2, size=(50, 4))
    record = Preprocessing(steps=(fit_standardize(Moments.of(rows)),))
    again = Preprocessing.model_validate_json(record.model_dump_json())
    features = rows.astype(np.float32)
    np.testing.assert_array_equal(Preparation(again).apply(features), Preparation(record).apply(features))
    assert all(float(np.float32(x)) == x for x in (*record.steps[0].mean, *record.steps[0].scale))


def test_steps_apply_in_order_and_the_input_stays_as_it_was() -> None:
    steps = (Standardize(mean=(1.0,), scale=(2.0,)), Standardize(mean=(-1.0,), scale=(0.5,)))
    features = np.array([[3.0]], dtype=np.float32)
    assert Preparation(Preprocessing(steps=steps)).apply(features).tolist() == [[4.0]]
    assert features.tolist() == [[3.0]]
    assert Preparation(Preprocessing()).apply(features) is features
