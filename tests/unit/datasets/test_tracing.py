"""A row of a version back to its place in the sources: files, pictures, key ranges, unions and joins of them."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from lightmill.datasets.described import Described, described
from lightmill.datasets.sources.combine import combine
from lightmill.datasets.sources.opening import open_source
from lightmill.datasets.sources.port import ROW_BITS, Source
from lightmill.datasets.tracing import origin_of, trace_position, trace_row
from lightmill.errors import NotFoundError, RequestError
from lightmill.records.assets import RowOrigin
from lightmill.records.sources import JoinSpec, SourceSpec, UnionSpec
from lightmill.registry import OpenVersion
from tests.unit.datasets.published import HIDDEN, People, publish
from tests.unit.registry.world import World

SPEC: TypeAdapter[Any] = TypeAdapter(SourceSpec)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


@pytest.fixture
def version(world: World) -> OpenVersion:
    return world.registry.open(publish(world.registry).id)


def test_a_row_by_its_id_and_by_its_place_is_the_same_row(version: OpenVersion) -> None:
    found = trace_row(version, 200)
    assert (found.group, found.position, found.source_row) == ("test", 66, 201)
    assert found.source is not None and found.source.name == "people.csv"
    assert trace_position(version, "test", 66) == found
    assert found.values["mail"] == f"{HIDDEN}-200" and len(found.values["features"]) == 4  # pyright: ignore
    assert found.model_validate_json(found.model_dump_json()) == found


def test_a_row_kept_aside_has_its_reason(version: OpenVersion) -> None:
    found = trace_row(version, 300)
    assert (found.group, found.reason, found.source_row) == ("quarantine", "value out of range", 301)


def test_a_row_that_is_not_there_is_named_by_its_place(version: OpenVersion) -> None:
    with pytest.raises(NotFoundError, match=r"row 999 of people\.csv"):
        trace_row(version, 998)
    with pytest.raises(NotFoundError, match="holds no row"):
        trace_row(version, 5 << ROW_BITS)
    with pytest.raises(NotFoundError, match="has 100 rows"):
        trace_position(version, "test", 100)
    with pytest.raises(RequestError, match="no split 'dev'"):
        trace_position(version, "dev", 0)


def test_versions_that_record_no_origins_are_read_by_file_where_that_is_certain(world: World) -> None:
    old = world.registry.open(publish(world.registry, People(origins=())).id)
    assert trace_row(old, 0).source is not None
    known = described(old)
    spec = {**known.spec, "source": {"format": "sql", "url": "sqlite:///x", "table": "t", "key": "id"}}
    provenance = known.manifest.provenance.model_copy(update={"spec": spec})
    manifest = known.manifest.model_copy(update={"provenance": provenance})
    table = Described(id=known.id, manifest=manifest, card=known.card, profile=None)
    assert origin_of(table, 7) == (None, "", 8, origin_of(table, 7)[3])
    assert "does not record" in origin_of(table, 7)[3]


# -- what sources say of themselves ---------------------------------------------


def opened(folder: Path, **spec: Any) -> Source:
    return open_source(SPEC.validate_python(spec), folder)


def made_of(version: OpenVersion, source: Source) -> Described:
    known = described(version)
    card = known.card.model_copy(update={"sources": source.describe(), "origins": source.origins()})
    return Described(id=known.id, manifest=known.manifest, card=card, profile=None)


def every_place(version: OpenVersion, source: Source) -> dict[str, set[tuple[str, str, int | None]]]:
    """Return, for the value of the column `v` of every row, the place that its id leads to."""
    known = made_of(version, source)
    found: dict[str, set[tuple[str, str, int | None]]] = {}
    for part in source.parts():
        for chunk in source.read(part):
            for value, row_id in zip(chunk.table.column("v").to_pylist(), chunk.row_ids().to_pylist(), strict=True):
                file, place, row, note = origin_of(known, row_id)
                assert file is not None and note == ""
                found.setdefault(str(value), set()).add((file.name, place, row))
    return found


def files(folder: Path) -> None:
    for name, rows in {"a": 3, "b": 0, "c": 2}.items():
        values = [f"{name}{n}" for n in range(rows)]
        pq.write_table(pa.table({"v": pa.array(values, pa.string())}), folder / f"{name}.parquet")
    (folder / "d.csv").write_text("v\nd0\nd1\n")
    with sqlite3.connect(folder / "t.db") as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(n, f"t{n}") for n in range(10)])
    connection.close()


def test_a_union_of_files_a_table_and_files_again(version: OpenVersion, tmp_path: Path) -> None:
    files(tmp_path)
    types = {"v": pa.string()}
    table = SPEC.validate_python(
        {"format": "sql", "url": f"sqlite:///{tmp_path}/t.db", "table": "t", "key": "id", "shards": 3}
    )
    source = combine(
        [
            open_source(SPEC.validate_python({"format": "parquet", "path": "*.parquet"}), tmp_path, types),
            open_source(table, tmp_path, types),
            open_source(SPEC.validate_python({"format": "csv", "path": "d.csv"}), tmp_path, types),
        ],
        UnionSpec(),
    )
    found = every_place(version, source)
    assert found["a2"] == {("a.parquet", "", 3)} and found["c0"] == {("c.parquet", "", 1)}
    assert found["t0"] == {("sql: table t", "table t, id from 0", 1)}
    assert found["t9"] == {("sql: table t", "table t, id from 8", 2)}
    assert found["d1"] == {("d.csv", "", 2)}
    assert source.entries() == len(source.describe()) == 5


def test_pictures_lead_each_to_its_own_file(version: OpenVersion, tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / "p" / folder).mkdir(parents=True)
        for n in range(3):
            (tmp_path / "p" / folder / f"{n}.png").write_bytes(b"p" * (n + 1))
    source = opened(tmp_path, format="images", path="p", per_part=2)
    known = made_of(version, source)
    for part in source.parts():
        for chunk in source.read(part):
            for path, row_id in zip(chunk.table.column("path").to_pylist(), chunk.row_ids().to_pylist(), strict=True):
                file, _, row, _ = origin_of(known, row_id)
                assert file is not None and (file.name, row) == (path, None)
    assert len(source.parts()) == 3 and source.entries() == 6


def test_a_joined_row_leads_to_its_left_row(version: OpenVersion, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("k,v\n1,one\n2,two\n")
    (tmp_path / "r.csv").write_text("k,w\n2,zwei\n1,eins\n")
    left, right = (opened(tmp_path, format="csv", path=name) for name in ("l.csv", "r.csv"))
    source = combine([left, right], JoinSpec(how="join", on=("k",)))
    assert every_place(version, source) == {"one": {("l.csv", "", 1)}, "two": {("l.csv", "", 2)}}
    assert source.entries() == 2 and source.origins() == (RowOrigin(first=0, source=0),)
