"""Splits: exact where they promise it, within their bounds where not, and the same as ever for the same seed."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.datasets import splitting
from lightmill.datasets.digests import row_digests
from lightmill.datasets.grouping import pack_groups
from lightmill.datasets.splitting import needs, refuse_empty, split_rows
from lightmill.errors import RequestError
from lightmill.records.splitting import (
    SPLIT_ADAPTER,
    Comparison,
    GroupedSplit,
    HashSplit,
    PredicateSplit,
    RandomSplit,
    SequentialSplit,
    StratifiedSplit,
)

NONE = pa.table({})
CODES = st.lists(st.integers(0, 6), max_size=80).map(lambda codes: np.array(codes, dtype=np.int64))
SHARES = {"train": 0.5, "validation": 0.3, "test": 0.2}
QUIET = settings(deadline=None, max_examples=30)


@QUIET
@given(CODES, st.integers(0, 2**40), st.booleans())
def test_a_section_of_before_is_read_as_it_was_meant(label: np.ndarray, seed: int, stratify: bool) -> None:
    section = {"train": 0.6, "validation": 0.15, "test": 0.25, "stratify": stratify, "seed": seed}
    found = split_rows(SPLIT_ADAPTER.validate_python(section), len(label), NONE, label=label)
    assert found.dtype == np.int8
    for code in set(label.tolist()) if stratify else {None}:
        rows = found if code is None else found[label == code]
        assert np.abs(np.bincount(rows, minlength=3) - len(rows) * np.array([0.6, 0.15, 0.25])).max() <= 1


def test_the_assignment_is_frozen() -> None:
    found = split_rows(StratifiedSplit(seed=7), 12, NONE, label=np.array([0, 1] * 6))
    assert found.tolist() == FROZEN


@QUIET
@given(CODES, st.integers(0, 5))
def test_stratified_by_a_column_keeps_the_shares_in_every_class(codes: np.ndarray, seed: int) -> None:
    table = pa.table({"kind": pa.array([f"k{code}" for code in codes], pa.string())})
    spec = StratifiedSplit(column="kind", seed=seed, **SHARES)
    found = split_rows(spec, len(codes), table)
    for code in set(codes.tolist()):
        counts = np.bincount(found[codes == code], minlength=3)
        assert np.abs(counts - counts.sum() * np.array([0.5, 0.3, 0.2])).max() <= 1


@QUIET
@given(st.lists(st.integers(-5, 60), max_size=80))
def test_sequential_lets_no_row_of_a_later_split_be_earlier(times: list[int]) -> None:
    values = np.array(times, dtype=np.int64)
    found = split_rows(SequentialSplit(column="t", **SHARES), len(times), pa.table({"t": values}))
    for early in range(3):
        for late in range(early + 1, 3):
            if (found == early).any() and (found == late).any():
                assert values[found == early].max() < values[found == late].min()
    ties = max((times.count(value) for value in times), default=0)
    counts = np.bincount(found, minlength=3)
    assert np.abs(np.cumsum(counts)[:2] - len(times) * np.array([0.5, 0.8])).max(initial=0) <= ties + 1


def test_sequential_is_exact_when_no_two_times_are_equal() -> None:
    order = np.random.default_rng(0).permutation(1000)
    found = split_rows(SequentialSplit(column="t", **SHARES), 1000, pa.table({"t": order}))
    assert np.bincount(found).tolist() == [500, 300, 200]
    assert (found == np.searchsorted([500, 800], order, side="right")).all()


def test_times_are_dates_timestamps_or_numbers() -> None:
    days = [datetime.date(2020, 1, day) for day in (3, 1, 2)]
    spec = SequentialSplit(column="t", train=0.34, validation=0.33, test=0.33)
    for column in (pa.array(days), pa.array(days).cast(pa.timestamp("us", "UTC")), pa.array([2.5, 0.5, 1.0])):
        assert split_rows(spec, 3, pa.table({"t": column})).tolist() == [2, 0, 1]
    with pytest.raises(RequestError, match="string has no order in time"):
        split_rows(spec, 1, pa.table({"t": ["a"]}))
    with pytest.raises(RequestError, match="lacks a time"):
        split_rows(spec, 2, pa.table({"t": [1, None]}))


@QUIET
@given(CODES, st.integers(0, 5))
def test_grouped_keeps_groups_whole_and_shares_near(codes: np.ndarray, seed: int) -> None:
    found = split_rows(GroupedSplit(column="g", seed=seed, **SHARES), len(codes), pa.table({"g": codes}))
    largest = np.bincount(codes).max() if len(codes) else 0
    for code in set(codes.tolist()):
        assert len(set(found[codes == code].tolist())) == 1
    missed = np.abs(np.bincount(found, minlength=3) - len(codes) * np.array([0.5, 0.3, 0.2]))
    assert missed.max() <= 2 * largest + 1e-9


@QUIET
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=60).map(lambda sizes: np.array(sizes, dtype=np.int64)),
    st.integers(1, 7),
    st.sampled_from([0, 3, 100_000]),
)
def test_packing_misses_a_share_by_two_groups_at_most(sizes: np.ndarray, bins: int, greedy: int) -> None:
    generator = np.random.default_rng(len(sizes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightmill.datasets.grouping.GREEDY_MAX", greedy)
        found = pack_groups(sizes, np.full(bins, 1 / bins), generator)
    filled = np.bincount(found, weights=sizes, minlength=bins)
    assert len(filled) == bins
    assert np.abs(filled - sizes.sum() / bins).max() <= 2 * sizes.max() + 1e-6


def test_hash_keeps_every_row_in_its_split_when_data_grows() -> None:
    spec = HashSplit(column="id", seed=1)
    ids = pa.array([f"user {number}" for number in range(20_000)])
    some, more = pa.table({"id": ids[:5000]}), pa.table({"id": ids})
    before, after = split_rows(spec, 5000, some), split_rows(spec, 20_000, more)
    assert after[:5000].tolist() == before.tolist()
    assert np.abs(np.bincount(after) / 20_000 - np.array([0.7, 0.1, 0.2])).max() < 0.01
    assert (split_rows(HashSplit(column="id", seed=2), 20_000, more) != after).mean() > 0.3
    assert after[:12].tolist() == HASHED


def test_hash_of_rows_does_not_depend_on_order_or_chunks() -> None:
    values = pa.array(np.arange(1000))
    digest = row_digests([values], 1000)
    whole = split_rows(HashSplit(), 1000, NONE, digest=digest)
    assert split_rows(HashSplit(), 1000, NONE, digest=digest[::-1])[::-1].tolist() == whole.tolist()
    chunked = pa.table({"n": pa.chunked_array([values[:300], values[300:]])})
    assert split_rows(HashSplit(column="n"), 1000, chunked).tolist() == whole.tolist()


# -- predicates ---------------------------------------------------------------

PEOPLE = pa.table(
    {
        "year": pa.array([2023, 2024, 2025, None, 2025]),
        "land": ["FR", "DE", None, "IT", "FR"],
        "size": [1.0, float("nan"), 3.0, 4.0, 5.0],
        "day": pa.array([datetime.date(2020, 1, day) for day in range(1, 6)]),
        "when": pa.array([datetime.datetime(2020, 1, day) for day in range(1, 6)], pa.timestamp("us", "UTC")),
        "flag": [True, False, True, None, False],
    }
)


@pytest.mark.parametrize(
    ("column", "op", "value", "rows"),
    [
        ("year", ">=", 2024, [1, 2, 4]),
        ("year", "<", 2024.5, [0, 1]),
        ("year", "!=", 2025, [0, 1]),
        ("land", "==", "FR", [0, 4]),
        ("land", "in", ("FR", "IT"), [0, 3, 4]),
        ("land", "not in", ("FR", "IT"), [1]),
        ("size", ">", 2, [2, 3, 4]),
        ("size", "!=", 3, [0, 3, 4]),
        ("day", "<=", "2020-01-02", [0, 1]),
        ("when", ">", "2020-01-04", [4]),
        ("flag", "==", True, [0, 2]),
    ],
)
def test_conditions_hold_for_rows_that_have_a_value(column: str, op: Any, value: Any, rows: list[int]) -> None:
    found = splitting.fulfils(PEOPLE, Comparison(column=column, op=op, value=value))
    assert np.flatnonzero(found).tolist() == rows


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("age", 1, "names column 'age'; there are year"),
        ("land", 1, "does not compare"),
        ("day", "soon", "does not compare"),
    ],
)
def test_conditions_that_cannot_be_compared_are_refused(column: str, value: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        splitting.fulfils(PEOPLE, Comparison(column=column, op="==", value=value))


def test_a_predicate_gives_test_first_then_validation_and_trains_on_the_rest() -> None:
    test = Comparison(column="year", op=">=", value=2025)
    both = PredicateSplit(test=test, validation=Comparison(column="land", op="==", value="FR"))
    assert split_rows(both, 5, PEOPLE).tolist() == [1, 0, 2, 0, 2]
    assert needs(both) == ("year", "land")
    share = PredicateSplit(test=test, validation=0.34, seed=3)
    found = split_rows(share, 5, PEOPLE)
    assert np.bincount(found, minlength=3).tolist() == [2, 1, 2]
    assert split_rows(share, 5, PEOPLE).tolist() == found.tolist()


# -- the rest -----------------------------------------------------------------


def test_columns_that_a_split_needs_are_named_and_missed() -> None:
    assert needs(RandomSplit()) == needs(StratifiedSplit()) == ()
    assert needs(GroupedSplit(column="g")) == ("g",)
    with pytest.raises(RequestError, match="names 'g', but the rows have none"):
        split_rows(GroupedSplit(column="g"), 0, NONE)
    with pytest.raises(RequestError, match="needs a label"):
        split_rows(StratifiedSplit(), 0, NONE)


def test_no_rows_give_no_splits_and_an_empty_split_is_refused() -> None:
    empty = pa.table({"c": pa.array([], pa.int64())})
    for spec in (RandomSplit(), StratifiedSplit(column="c"), SequentialSplit(column="c"), GroupedSplit(column="c")):
        assert split_rows(spec, 0, empty).shape == (0,)
    assert split_rows(HashSplit(column="c"), 0, empty).shape == (0,)
    refuse_empty((1, 1, 1))
    with pytest.raises(RequestError, match="The split 'validation' gets no rows of 2 kept"):
        refuse_empty((1, 0, 1))


FROZEN = [0, 0, 2, 0, 0, 0, 0, 0, 1, 1, 0, 2]
HASHED = [2, 0, 2, 0, 0, 2, 0, 0, 0, 0, 0, 0]
