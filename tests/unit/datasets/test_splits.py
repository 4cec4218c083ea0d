from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.datasets.splits import SPLITS, assign_splits
from lightmill.records.specs import SplitSpec

FROZEN = [0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 2, 0]
LABELS = np.repeat(np.arange(4), [100, 37, 10, 3]).astype(np.int64)


def shares(spec: SplitSpec) -> list[float]:
    return [getattr(spec, name) for name in SPLITS]


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=200),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(0, 1 << 40),
)
def test_every_class_keeps_the_shares_within_one_row(labels: list[int], a: int, b: int, c: int, seed: int) -> None:
    spec = SplitSpec(train=a / (a + b + c), validation=b / (a + b + c), test=c / (a + b + c), seed=seed)
    label = np.array(labels, dtype=np.int64)
    split = assign_splits(label, spec)
    assert split.dtype == np.int8
    assert set(split.tolist()) <= {0, 1, 2}
    for group in set(labels):
        rows = split[label == group]
        for code, share in enumerate(shares(spec)):
            assert abs((rows == code).sum() - share * len(rows)) <= 1 + 1e-9


@given(st.integers(1, 300), st.integers(0, 99))
def test_without_stratification_the_whole_keeps_the_shares(count: int, seed: int) -> None:
    spec = SplitSpec(stratify=False, seed=seed)
    split = assign_splits(np.zeros(count, dtype=np.int64), spec)
    for code, share in enumerate(shares(spec)):
        assert abs((split == code).sum() - share * count) <= 1 + 1e-9


@pytest.mark.parametrize("stratify", [True, False])
def test_a_seed_decides_everything(stratify: bool) -> None:
    spec = SplitSpec(seed=7, stratify=stratify)
    first, again = assign_splits(LABELS, spec), assign_splits(LABELS, spec)
    other = assign_splits(LABELS, SplitSpec(seed=8, stratify=stratify))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()
    assert np.bincount(first, minlength=3).tolist() == np.bincount(other, minlength=3).tolist()


def test_a_class_is_split_the_same_whatever_the_others_are() -> None:
    alone = assign_splits(np.full(50, 2, dtype=np.int64), SplitSpec(seed=3))
    mixed_labels = np.tile(np.array([2, 1], dtype=np.int64), 50)
    mixed = assign_splits(mixed_labels, SplitSpec(seed=3))
    assert sorted(alone.tolist()) == sorted(mixed[mixed_labels == 2].tolist())


def test_the_split_is_frozen() -> None:
    """Another answer here would move rows between training and test when a dataset is ingested again."""
    assert assign_splits(np.array([0, 1] * 6, dtype=np.int64), SplitSpec(seed=7)).tolist() == FROZEN


def test_no_rows_are_no_splits() -> None:
    assert assign_splits(np.empty(0, dtype=np.int64), SplitSpec()).shape == (0,)
