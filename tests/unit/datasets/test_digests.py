"""Digests of rows: equal for equal rows in any chunks, different for others, the same on every day."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.datasets.digests import mix64, row_digests

ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-3, 3)),
        st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.5, float("inf"), float("nan")])),
        st.one_of(st.none(), st.text(max_size=20)),
        st.one_of(st.none(), st.lists(st.integers(0, 2), max_size=3)),
    ),
    max_size=30,
)
FROZEN = [[9373305000415474371, 5308529224681629129], [350575447477092076, 10112633408710908624]]
TYPES = (pa.int64(), pa.float64(), pa.string(), pa.list_(pa.int64()))


def columns(rows: list[tuple[object, ...]]) -> list[pa.Array]:
    return [pa.array([row[at] for row in rows], type=kind) for at, kind in enumerate(TYPES)]


def plain(row: tuple[object, ...]) -> tuple[object, ...]:
    number = row[1]
    if isinstance(number, float):
        number = "nan" if number != number else number + 0.0
    return (row[0], number, row[2], tuple(row[3]) if isinstance(row[3], list) else None)


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_rows_have_equal_digests_if_and_only_if_they_are_equal(rows: list[tuple[object, ...]]) -> None:
    found = [tuple(pair) for pair in row_digests(columns(rows), len(rows)).tolist()]
    for at, one in enumerate(rows):
        for other in range(at):
            assert (found[at] == found[other]) == (plain(one) == plain(rows[other]))


@settings(deadline=None, max_examples=30)
@given(ROWS, st.integers(0, 30))
def test_chunks_and_offsets_do_not_matter(rows: list[tuple[object, ...]], cut: int) -> None:
    whole = columns(rows)
    first, rest = [array[:cut] for array in whole], [array[cut:] for array in whole]
    parts = [row_digests(first, len(first[0])), row_digests(rest, len(rest[0]))]
    assert np.concatenate(parts).tolist() == row_digests(whole, len(rows)).tolist()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.one_of(st.none(), st.sampled_from(["", "a", "aa", "a longer text of two words"])), max_size=60))
def test_texts_that_repeat_much_hash_as_others_do(texts: list[str | None]) -> None:
    few = pa.array(texts, type=pa.string())
    many = pa.array(texts + ["x"] * 5000, type=pa.string())
    assert row_digests([many], len(many))[: len(few)].tolist() == row_digests([few], len(few)).tolist()


def test_the_digest_is_frozen_since_splits_by_hash_depend_on_it() -> None:
    found = row_digests([pa.array([1, None]), pa.array(["lightmill", ""])], 2)
    assert found.tolist() == FROZEN


def test_the_order_and_the_type_of_columns_count() -> None:
    a, b = pa.array([1]), pa.array([2])
    assert row_digests([a, b], 1).tolist() != row_digests([b, a], 1).tolist()
    assert row_digests([pa.array([1])], 1).tolist() != row_digests([pa.array([1.0])], 1).tolist()
    assert row_digests([pa.array(["a", "bc"])], 2).tolist() != row_digests([pa.array(["ab", "c"])], 2).tolist()


def test_padding_and_zero_bytes_are_told_apart() -> None:
    texts = [b"", b"\0", b"\0\0", b"a", b"a\0", b"12345678", b"12345678\0", b"87654321", b"1234567812345678"]
    assert len(np.unique(row_digests([pa.array(texts)], len(texts)), axis=0)) == len(texts)


def test_many_neighbouring_rows_have_as_many_digests() -> None:
    numbers = np.arange(300_000)
    found = row_digests([pa.array(numbers % 1000), pa.array((numbers // 1000).astype(np.float64))], len(numbers))
    assert len(np.unique(found[:, 0])) == len(np.unique(found[:, 1])) == 300_000
    assert not (found[:, 0] == found[:, 1]).any()


def test_bits_of_digests_are_even() -> None:
    found = row_digests([pa.array(np.arange(100_000))], 100_000)
    bits = np.unpackbits(found.view(np.uint8)).reshape(100_000, 128).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 0.01


def test_a_cell_of_ten_megabytes_is_one_value() -> None:
    big = "x" * (10 << 20)
    found = row_digests([pa.array([big, big, big + "x", "x"])], 4)
    assert len(np.unique(found, axis=0)) == 3


@pytest.mark.parametrize(
    "kind", [pa.null(), pa.bool_(), pa.date32(), pa.timestamp("us", "UTC"), pa.uint64(), pa.float32()]
)
def test_every_type_that_a_column_may_have_is_hashed(kind: pa.DataType) -> None:
    found = row_digests([pa.nulls(3, kind)], 3)
    assert len(np.unique(found, axis=0)) == 1
    assert row_digests([pa.nulls(0, kind)], 0).shape == (0, 2)


def test_a_fixed_size_list_is_hashed_by_its_values() -> None:
    tensors = pa.array([[1.0, 2.0], None, [1.0, 2.0], [2.0, 1.0]], type=pa.list_(pa.float32(), 2))
    found = row_digests([tensors], 4)
    assert found[0].tolist() == found[2].tolist()
    assert len(np.unique(found, axis=0)) == 3


def test_mixing_is_a_bijection_on_a_sample() -> None:
    words = np.arange(1 << 16, dtype=np.uint64)
    assert len(np.unique(mix64(words))) == 1 << 16
    assert mix64(np.array([1], dtype=np.uint64)).tolist() == [0x5692161D100B05E5]
