"""Blocks as passes read them, and which parts are read together."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from lightmill.datasets.sources import Source
from lightmill.datasets.sources.blocks import check_names, read_blocks, task_groups
from lightmill.datasets.sources.port import BadRow, Part
from lightmill.errors import RequestError
from tests.unit.datasets.sources.reading import at, source

COLUMNS = {"a": pa.int64(), "b": pa.string()}


def example(folder: Path) -> Source:
    (folder / "1.csv").write_bytes(b"a,b\n1,x\n2\n3,y\n")
    (folder / "2.csv").write_bytes(b"a,b\nz,w\n4,v\n")
    (folder / "3.csv").write_bytes(b"")
    return source(folder, COLUMNS, path="*.csv", part_bytes=4)


def blocks(found: Source, batch_rows: int = 65_536) -> pa.Table:
    found = pickle.loads(pickle.dumps(found))
    return pa.concat_tables([block for part in found.parts() for block in read_blocks(found, part, batch_rows)])


def test_quarantined_rows_come_in_their_place_with_the_reason(tmp_path: Path) -> None:
    table = blocks(example(tmp_path), batch_rows=1)
    assert sorted(table.column("row_id").to_pylist()) == [0, 1, 2, at(1, 0), at(1, 1), at(2, 0)]
    bad = [BadRow.model_validate_json(text) for text in table.column("bad_row").drop_null().to_pylist()]
    assert [(b.path, b.row, b.kind, b.text, b.rest) for b in bad] == [
        ("1.csv", 1, "unreadable", "2", False),
        ("2.csv", 0, "type", "z,w", False),
        ("3.csv", 0, "unreadable", "", True),
    ]
    good = table.filter(pa.compute.is_null(table.column("bad_row")))  # pyright: ignore
    assert good.column("a").to_pylist() == [1, 3, 4]


def test_reserved_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("row_id,b\n1,2\n")
    with pytest.raises(RequestError, match="reserved"):
        check_names(source(tmp_path, path="d.csv"))


def test_a_part_without_rows_is_an_empty_block(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a,b\n")
    found = source(tmp_path, COLUMNS, path="d.csv")
    (block,) = read_blocks(found, found.parts()[0])
    assert block.schema.names == ["row_id", "a", "b", "bad_row"]
    assert len(block) == 0


def test_small_parts_are_read_together_and_large_ones_alone(tmp_path: Path) -> None:
    parts = [Part(file=n, number=n, path=f"{n}", size_bytes=size << 20) for n, size in enumerate((20, 10, 5, 40, 0, 1))]
    assert [[part.file for part in group] for group in task_groups(parts)] == [[0, 1], [2], [3], [4], [5]]
