"""The kinds of bad input that a source itself finds, without Ray; integration tests take them through ingestion."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from lightmill.datasets.sources.port import BadRow
from lightmill.errors import RequestError
from tests.bad_inputs import CASES, NAMES, Case
from tests.unit.datasets.sources.reading import source

TYPES = {"n": pa.float64(), "t": pa.string(), "kind": pa.string()}


@pytest.mark.parametrize("case", [c for c in CASES if c.by_source and not c.heavy], ids=lambda case: case.name)
def test_bad_rows_are_told_and_all_others_read(tmp_path: Path, case: Case) -> None:
    found = source(tmp_path, TYPES, **case.make(tmp_path))
    bad: list[BadRow] = []
    if not case.kept:
        with pytest.raises(RequestError) as caught:
            rows = [chunk for part in found.parts() for chunk in found.read(part, on_bad=bad.append)]
            found.schema()
            assert rows
        assert [word for word in case.refused if word not in str(caught.value)] == []
        return
    read = {}
    for part in found.parts():
        for chunk in found.read(part, on_bad=bad.append):
            values = zip(*(chunk.table.column(name).to_pylist() for name in NAMES), strict=True)
            read |= {(part.file, int(row)): value for row, value in zip(chunk.rows, values, strict=True)}
    assert read == case.kept
    assert {(one.file, one.row): (one.kind, one.column) for one in bad} == {
        place: (aside.rule, aside.column) for place, aside in case.aside.items()
    }
    for one in bad:
        assert case.aside[one.file, one.row].why in one.reason or one.rest
