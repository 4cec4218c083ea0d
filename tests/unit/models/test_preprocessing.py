from __future__ import annotations

import numpy as np

from lightmill.models.preprocessing import Preparation
from lightmill.records.signature import Preprocessing, Standardize


def test_a_record_goes_through_json_and_prepares_the_same() -> None:
    record = Preprocessing(steps=(Standardize(mean=(0.1, 1e6), scale=(0.3, 7.0)),))
    again = Preprocessing.model_validate_json(record.model_dump_json())
    features = np.random.default_rng(2).normal(3, 2, size=(50, 2)).astype(np.float32)
    prepared = Preparation(record).apply(features)
    assert prepared.dtype == np.float32
    np.testing.assert_array_equal(Preparation(again).apply(features), prepared)


def test_steps_apply_in_order_and_the_input_stays_as_it_was() -> None:
    steps = (Standardize(mean=(1.0,), scale=(2.0,)), Standardize(mean=(-1.0,), scale=(0.5,)))
    features = np.array([[3.0]], dtype=np.float32)
    assert Preparation(Preprocessing(steps=steps)).apply(features).tolist() == [[4.0]]
    assert features.tolist() == [[3.0]]
    assert Preparation(Preprocessing()).apply(features) is features
