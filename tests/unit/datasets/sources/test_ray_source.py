"""The Ray datasource: its tasks are run here by hand, without a cluster."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from lightmill.datasets.sources import Source
from lightmill.datasets.sources.port import BadRow
from lightmill.datasets.sources.ray_source import RaySource, read_blocks
from lightmill.errors import RequestError
from tests.unit.datasets.sources.reading import at, source

COLUMNS = {"a": pa.int64(), "b": pa.string()}


def example(folder: Path) -> Source:
    (folder / "1.csv").write_bytes(b"a,b\n1,x\n2\n3,y\n")
    (folder / "2.csv").write_bytes(b"a,b\nz,w\n4,v\n")
    (folder / "3.csv").write_bytes(b"")
    return source(folder, COLUMNS, path="*.csv", part_bytes=4)


def blocks(ray_source: RaySource) -> pa.Table:
    tasks = pickle.loads(pickle.dumps([task.read_fn for task in ray_source.get_read_tasks(2)]))
    return pa.concat_tables([block for task in tasks for block in task()])


def test_dropped_rows_leave_their_numbers_behind(tmp_path: Path) -> None:
    table = blocks(RaySource(example(tmp_path), bad_rows="drop"))
    assert table.to_pylist() == [
        {"row_id": 0, "a": 1, "b": "x"},
        {"row_id": 2, "a": 3, "b": "y"},
        {"row_id": at(1, 1), "a": 4, "b": "v"},
    ]
    assert table.schema.types == [pa.int64(), pa.int64(), pa.string()]


def test_quarantined_rows_come_in_their_place_with_the_reason(tmp_path: Path) -> None:
    table = blocks(RaySource(example(tmp_path), bad_rows="quarantine", batch_rows=1))
    assert sorted(table.column("row_id").to_pylist()) == [0, 1, 2, at(1, 0), at(1, 1), at(2, 0)]
    bad = [BadRow.model_validate_json(text) for text in table.column("bad_row").drop_null().to_pylist()]
    assert [(b.path, b.row, b.kind, b.text, b.rest) for b in bad] == [
        ("1.csv", 1, "unreadable", "2", False),
        ("2.csv", 0, "type", "z,w", False),
        ("3.csv", 0, "unreadable", "", True),
    ]
    good = table.filter(pa.compute.is_null(table.column("bad_row")))  # pyright: ignore
    assert good.column("a").to_pylist() == [1, 3, 4]


def test_the_first_bad_row_ends_a_strict_read(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"1\.csv, row 1: it has 1 cells"):
        blocks(RaySource(example(tmp_path)))


def test_some_parts_can_be_read_alone(tmp_path: Path) -> None:
    found = example(tmp_path)
    parts = [part for part in found.parts() if part.file == 1]
    table = blocks(RaySource(found, parts, bad_rows="drop"))
    assert table.column("row_id").to_pylist() == [at(1, 1)]
    assert RaySource(found, parts).estimate_inmemory_data_size() == sum(part.size_bytes for part in parts)
    assert RaySource(found).get_name() == "CsvSource"


def test_reserved_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("row_id,b\n1,2\n")
    with pytest.raises(RequestError, match="reserved"):
        RaySource(source(tmp_path, path="d.csv"))


def test_a_part_without_rows_is_an_empty_block(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a,b\n")
    found = source(tmp_path, COLUMNS, path="d.csv")
    (block,) = read_blocks(found, found.parts()[0], "drop")
    assert block.schema.names == ["row_id", "a", "b"]
    assert len(block) == 0
