"""Rows among workers: every row once, balanced as promised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.datasets.distribution import distribute
from lightmill.errors import RequestError
from lightmill.records.splitting import DistributionSpec

CODES = st.lists(st.integers(0, 6), max_size=80).map(lambda codes: np.array(codes, dtype=np.int64))
QUIET = settings(deadline=None, max_examples=30)


def spec(by: str, seed: int = 0) -> DistributionSpec:
    return DistributionSpec.model_validate({"by": by, "column": "c", "seed": seed})


@QUIET
@given(CODES, st.integers(1, 9), st.sampled_from(["random", "sequential", "class", "key"]), st.integers(0, 9))
def test_every_row_goes_to_one_worker_always_the_same(codes: np.ndarray, workers: int, by: str, seed: int) -> None:
    found = distribute(spec(by, seed), len(codes), workers, codes)
    assert len(found) == workers
    assert all(part.dtype == np.int64 for part in found)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(codes)))
    again = distribute(spec(by, seed), len(codes), workers, codes)
    assert [part.tolist() for part in again] == [part.tolist() for part in found]
    sizes = [len(part) for part in found]
    if by == "key":
        largest = np.bincount(codes).max() if len(codes) else 0
        assert max(abs(size - len(codes) / workers) for size in sizes) <= 2 * largest
    else:
        assert max(sizes) - min(sizes) <= 1


@QUIET
@given(CODES, st.integers(1, 5))
def test_by_class_every_worker_has_its_share_of_each_class(codes: np.ndarray, workers: int) -> None:
    counts = [np.bincount(codes[part], minlength=7) for part in distribute(spec("class"), len(codes), workers, codes)]
    assert (np.max(counts, axis=0) - np.min(counts, axis=0)).max() <= 1


@QUIET
@given(CODES, st.integers(1, 5))
def test_by_key_no_key_is_on_two_workers(codes: np.ndarray, workers: int) -> None:
    keys = [set(codes[part].tolist()) for part in distribute(spec("key"), len(codes), workers, codes)]
    assert sum(len(one) for one in keys) == len(set(codes.tolist()))


def test_sequential_gives_runs_and_random_does_not() -> None:
    assert [part.tolist() for part in distribute(spec("sequential"), 5, 2)] == [[0, 1, 2], [3, 4]]
    shuffled = distribute(spec("random"), 1000, 2)
    assert (np.diff(shuffled[0]) < 0).any()
    assert distribute(spec("random", 1), 1000, 2)[0].tolist() != shuffled[0].tolist()


def test_what_is_lacking_is_named() -> None:
    with pytest.raises(RequestError, match="0 workers cannot take 3 rows"):
        distribute(spec("random"), 3, 0)
    with pytest.raises(RequestError, match="by 'key' needs the key of each of 3 rows"):
        distribute(spec("key"), 3, 1)
