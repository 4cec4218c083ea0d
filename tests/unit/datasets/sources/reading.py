from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from lightmill.datasets.sources import BadRow, Source, open_source, row_ids
from lightmill.records.sources import SourceSpec

SPEC: TypeAdapter[Any] = TypeAdapter(SourceSpec)
Columns = Mapping[str, pa.DataType] | None


def source(folder: Path, columns: Columns = None, **spec: Any) -> Source:
    """A source as a specification names it, after a trip to another process."""
    return pickle.loads(pickle.dumps(open_source(SPEC.validate_python(spec), folder, columns)))


def read(found: Source, batch_rows: int = 1000) -> tuple[list[tuple[int, dict]], list[BadRow]]:
    """All rows with their ids, and the bad ones."""
    rows: list[tuple[int, dict]] = []
    bad: list[BadRow] = []
    for part in found.parts():
        for chunk in found.read(part, batch_rows=batch_rows, on_bad=bad.append):
            assert 0 < len(chunk.table) <= batch_rows
            assert chunk.table.schema.equals(found.schema())
            assert chunk.row_ids().equals(row_ids(part.file, chunk.rows))
            rows += zip(chunk.row_ids().to_pylist(), chunk.table.to_pylist(), strict=True)
    ids = [id for id, _ in rows]
    assert ids == sorted(ids)
    return rows, bad


def values(found: Source, batch_rows: int = 1000) -> list[dict]:
    """The rows of a source that has no bad one."""
    rows, bad = read(found, batch_rows)
    assert bad == []
    return [row for _, row in rows]


def at(file: int, row: int) -> int:
    return (file << 40) + row
