"""Delta and Iceberg tables, where their packages are installed; without them, the message that says how."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pyarrow as pa
import pytest

from lightmill.errors import NotFoundError, RequestError
from tests.unit.datasets.sources.reading import read, source, values

needs_delta = pytest.mark.skipif(importlib.util.find_spec("deltalake") is None, reason="deltalake is not installed")
needs_iceberg = pytest.mark.skipif(importlib.util.find_spec("pyiceberg") is None, reason="pyiceberg is not installed")


@pytest.mark.skipif(importlib.util.find_spec("deltalake") is not None, reason="deltalake is installed")
def test_without_deltalake_the_message_names_the_extra(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"pip install 'lightmill\[delta\]'"):
        source(tmp_path, format="delta", path="t")


@pytest.mark.skipif(importlib.util.find_spec("pyiceberg") is not None, reason="pyiceberg is installed")
def test_without_pyiceberg_the_message_names_the_extra(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"pip install 'lightmill\[iceberg\]'"):
        source(tmp_path, format="iceberg", metadata="m.json").parts()


@needs_delta
def test_versions_and_partitions_of_a_delta_table(tmp_path: Path) -> None:
    import deltalake

    first = pa.table({"k": ["a", "a", "b"], "x": [1, 2, 3]})
    deltalake.write_deltalake(str(tmp_path / "t"), first, partition_by=["k"])
    deltalake.write_deltalake(str(tmp_path / "t"), pa.table({"k": ["c"], "x": [4]}), mode="append")
    now = source(tmp_path, format="delta", path="t")
    assert [(row["k"], row["x"]) for row in values(now)] == [("a", 1), ("a", 2), ("b", 3), ("c", 4)]
    assert len(now.parts()) == len(now.describe()) == 3
    before = source(tmp_path, {"x": pa.int64()}, format="delta", path="t", version=0)
    assert values(before, batch_rows=1) == [{"x": 1}, {"x": 2}, {"x": 3}]
    with pytest.raises(RequestError, match="cannot be read"):
        source(tmp_path, format="delta", path="t", version=7)
    with pytest.raises(RequestError, match="no column 'z'"):
        source(tmp_path, {"z": pa.int64()}, format="delta", path="t").schema()
    with pytest.raises((NotFoundError, RequestError), match="none"):
        source(tmp_path, format="delta", path="none")


@needs_delta
def test_a_damaged_file_of_a_delta_table_is_reported(tmp_path: Path) -> None:
    import deltalake

    deltalake.write_deltalake(str(tmp_path / "t"), pa.table({"x": list(range(1000))}))
    found = source(tmp_path, format="delta", path="t")
    parts = found.parts()
    (file,) = (tmp_path / "t").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:100])
    bad: list = []
    assert list(found.read(parts[0], on_bad=bad.append)) == []
    assert bad[0].rest


@needs_iceberg
def test_snapshots_and_renamed_columns_of_an_iceberg_table(tmp_path: Path) -> None:
    from pyiceberg.catalog.memory import InMemoryCatalog

    catalog = InMemoryCatalog("c", warehouse=f"file://{tmp_path}/w")
    catalog.create_namespace("n")
    table = catalog.create_table("n.t", pa.schema([("x", pa.int64()), ("s", pa.string())]))
    table.append(pa.table({"x": [1, 2], "s": ["a", "b"]}))
    first = table.metadata_location
    table.append(pa.table({"x": [3], "s": ["c"]}))
    with table.update_schema() as update:
        update.rename_column("s", "t")
    rows, bad = read(source(tmp_path, format="iceberg", metadata=table.metadata_location))
    assert bad == []
    assert sorted((row["x"], row["t"]) for _, row in rows) == [(1, "a"), (2, "b"), (3, "c")]
    before = source(tmp_path, {"s": pa.string()}, format="iceberg", metadata=first)
    assert values(before) == [{"s": "a"}, {"s": "b"}]
    assert len(before.parts()) == len(before.describe()) == 1
    with pytest.raises(RequestError, match="cannot be read"):
        source(tmp_path, format="iceberg", metadata="none.json").parts()
