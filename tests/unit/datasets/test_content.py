"""Digests of content: the same for equal values however they lie in memory, another for any change."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.datasets.content import dataset_digest, table_digest
from lightmill.records.assets import FileEntry

TYPES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.float32(), st.floats(width=32, allow_nan=False)),
    (pa.bool_(), st.booleans()),
    (pa.string(), st.text(max_size=6)),
    (pa.binary(), st.binary(max_size=6)),
    (pa.date32(), st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 1, 1))),
    (pa.timestamp("us"), st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1))),
    (pa.list_(pa.int32()), st.lists(st.integers(0, 9), max_size=3)),
    (pa.list_(pa.float32(), 2), st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2)),
]


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_equal_tables_have_equal_digests_and_others_do_not(data: st.DataObject) -> None:
    kind, values = data.draw(st.sampled_from(TYPES))
    rows = data.draw(st.lists(st.none() | values, min_size=1, max_size=20))
    table = pa.table({"c": pa.array(rows, kind)})
    digest = table_digest(table)
    cut = data.draw(st.integers(0, len(rows)))
    around = pa.concat_arrays([pa.array(rows[:1], kind), pa.array(rows, kind), pa.array(rows[:2], kind)])
    pieces = pa.chunked_array([pa.array(rows[:cut], kind), around.slice(1 + cut, len(rows) - cut)])
    assert table_digest(pa.table({"c": pieces})) == digest
    assert table_digest(pa.table({"d": pieces})) != digest
    place = data.draw(st.integers(0, len(rows) - 1))
    other = [*rows[:place], data.draw(st.none() | values), *rows[place + 1 :]]
    same = pa.array(other, kind).equals(pa.array(rows, kind))
    if not (same or other == rows):
        assert table_digest(pa.table({"c": pa.array(other, kind)})) != digest
    assert table_digest(pa.table({"c": pa.array([*rows, rows[0]], kind)})) != digest


def test_what_lies_under_a_missing_value_does_not_count() -> None:
    hidden = pa.Array.from_buffers(
        pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(np.array([5, 77], dtype=np.int64).tobytes())]
    )
    assert hidden.to_pylist() == [5, None]
    assert table_digest(pa.table({"c": hidden})) == table_digest(pa.table({"c": pa.array([5, None], pa.int64())}))


@pytest.mark.parametrize("change", [{"path": "train/1"}, {"rows": 4}, {"content": "bb"}, {"group": "test"}])
def test_a_dataset_s_digest_is_of_what_its_splits_hold(change: dict[str, Any]) -> None:
    one = FileEntry(path="train/0", size=1, sha256="", rows=3, group="train", content="aa")
    two = FileEntry(path="train/2", size=1, sha256="", rows=3, group="train", content="cc")
    whole = dataset_digest([one, two])
    assert dataset_digest([two, one.model_copy(update={"sha256": "x", "size": 9, "object": "y"})]) == whole
    aside = one.model_copy(update={"group": "quarantine", "path": "quarantine/0"})
    assert dataset_digest([one, two, aside]) == whole
    if "group" not in change:
        assert dataset_digest([one.model_copy(update=change), two]) != whole
