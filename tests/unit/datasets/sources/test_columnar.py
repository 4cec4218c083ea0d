"""Parquet, Arrow and saved Hugging Face datasets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from lightmill.errors import NotFoundError, RequestError
from tests.unit.datasets.sources.reading import at, read, source, values

TABLE = pa.table({"a": list(range(100)), "s": [f"t{n}" for n in range(100)]})


def test_a_parquet_file_is_divided_at_row_groups_with_the_same_row_ids(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "d.parquet", row_group_size=7)
    whole = read(source(tmp_path, format="parquet", path="d.parquet"), batch_rows=9)
    divided = source(tmp_path, format="parquet", path="d.parquet", part_bytes=1)
    assert len(divided.parts()) == 15
    assert read(divided) == whole
    assert whole == ([(n, row) for n, row in enumerate(TABLE.to_pylist())], [])


def test_declared_types_convert_and_what_does_not_is_reported(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1.0, 2.5, None, 1e300], "s": ["1", "x", "3", "4"]}), tmp_path / "d.parquet")
    columns = {"s": pa.int32(), "a": pa.int64()}
    rows, bad = read(source(tmp_path, columns, format="parquet", path="d.parquet"))
    assert rows == [(0, {"s": 1, "a": 1}), (2, {"s": 3, "a": None})]
    assert [(b.row, b.kind, b.column) for b in bad] == [(1, "type", "s"), (3, "type", "a")]


def test_a_number_is_never_rounded_nor_made_infinite(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [2**53 + 1, 5], "b": [1e300, 2.0]}), tmp_path / "d.parquet")
    columns = {"a": pa.float64(), "b": pa.float32()}
    rows, bad = read(source(tmp_path, columns, format="parquet", path="d.parquet"))
    assert rows == [(1, {"a": 5.0, "b": 2.0})]
    assert len(bad) == 1


def test_a_column_that_changes_type_between_files_must_be_declared(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": ["2"]}), tmp_path / "2.parquet")
    with pytest.raises(RequestError, match=r"2\.parquet: column 'a' is string, but int64 in the first file"):
        read(source(tmp_path, format="parquet", path="*.parquet"))
    rows, _ = read(source(tmp_path, {"a": pa.int64()}, format="parquet", path="*.parquet"))
    assert rows == [(0, {"a": 1}), (at(1, 0), {"a": 2})]
    with pytest.raises(RequestError, match="column 'a'.*do not convert"):
        read(source(tmp_path, {"a": pa.list_(pa.int64())}, format="parquet", path="*.parquet"))


def test_a_truncated_file_among_good_ones_is_reported_whole(tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        pq.write_table(TABLE, tmp_path / f"{name}.parquet")
    whole = (tmp_path / "2.parquet").read_bytes()
    (tmp_path / "2.parquet").write_bytes(whole[: len(whole) // 2])
    rows, bad = read(source(tmp_path, format="parquet", path="*.parquet"))
    assert len(rows) == 200
    assert [(b.file, b.path, b.row, b.rest) for b in bad] == [(1, "2.parquet", 0, True)]


def test_a_damaged_page_ends_its_part_with_the_row(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2**62, 4000)
    pq.write_table(pa.table({"a": noise}), tmp_path / "d.parquet", row_group_size=1000, use_dictionary=False)
    data = bytearray((tmp_path / "d.parquet").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = b"\xff" * 2000
    (tmp_path / "d.parquet").write_bytes(data)
    rows, bad = read(source(tmp_path, format="parquet", path="d.parquet", part_bytes=1))
    assert [b.rest for b in bad] in ([], [True])
    assert len(rows) == (4000 if not bad else 3000)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1\0\0\0\0PAR1", b"not parquet at all"])
def test_what_is_no_parquet_is_refused_or_reported(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "2.parquet").write_bytes(content)
    with pytest.raises(RequestError, match=r"2\.parquet"):
        source(tmp_path, format="parquet", path="2.parquet").schema()
    pq.write_table(TABLE, tmp_path / "1.parquet")
    rows, bad = read(source(tmp_path, format="parquet", path="*.parquet"))
    assert len(rows) == 100
    assert [b.rest for b in bad] == [True]


def test_an_empty_table_is_no_rows(tmp_path: Path) -> None:
    pq.write_table(TABLE.slice(0, 0), tmp_path / "d.parquet")
    assert read(source(tmp_path, format="parquet", path="d.parquet")) == ([], [])


def test_duplicate_columns_and_large_cells(tmp_path: Path) -> None:
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "t.parquet")
    with pytest.raises(RequestError, match="'a' twice"):
        source(tmp_path, format="parquet", path="t.parquet").schema()
    pq.write_table(pa.table({"s": ["x", "y" * 2000, "z"], "l": [[1], [2], [3] * 900]}), tmp_path / "d.parquet")
    rows, bad = read(source(tmp_path, format="parquet", path="d.parquet", limits={"cell_bytes": 1000}))
    assert [id for id, _ in rows] == [0]
    assert [(b.row, b.column) for b in bad] == [(1, "s"), (2, "l")]


def test_dictionaries_come_as_plain_values(tmp_path: Path) -> None:
    table = pa.table({"s": pa.array(["x", "y", "x"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "d.parquet")
    with pa.ipc.new_file(tmp_path / "d.arrow", table.schema) as writer:
        writer.write(table)
    for format in ("parquet", "arrow"):
        found = source(tmp_path, format=format, path=f"d.{format}")
        assert found.schema().field("s").type == pa.string()
        assert [row["s"] for row in values(found)] == ["x", "y", "x"]


def test_arrow_files_streams_and_feather(tmp_path: Path) -> None:
    with pa.ipc.new_file(tmp_path / "1.arrow", TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=30)
    with pa.ipc.new_stream(tmp_path / "2.arrow", TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=30)
    pyarrow.feather.write_feather(TABLE, tmp_path / "3.arrow")
    rows, bad = read(source(tmp_path, format="arrow", path="*.arrow"), batch_rows=8)
    assert bad == []
    assert [row for _, row in rows] == TABLE.to_pylist() * 3
    assert rows[150][0] == at(1, 50)
    narrow = source(tmp_path, {"s": pa.string()}, format="arrow", path="1.arrow")
    assert values(narrow)[0] == {"s": "t0"}


def test_an_arrow_file_with_wrong_offsets_is_reported_and_not_followed(tmp_path: Path) -> None:
    with pa.ipc.new_file(tmp_path / "d.arrow", TABLE.select(["s"]).schema) as writer:
        writer.write_table(TABLE.select(["s"]))
    data = (tmp_path / "d.arrow").read_bytes()
    offsets = np.array([0, 2, 4, 6], dtype=np.int32).tobytes()
    place = data.find(offsets)
    assert place > 0
    wrong = np.array([0, 2, 2_000_000_000, 6], dtype=np.int32).tobytes()
    (tmp_path / "d.arrow").write_bytes(data[:place] + wrong + data[place + len(wrong) :])
    rows, bad = read(source(tmp_path, format="arrow", path="d.arrow"))
    assert rows == []
    assert [b.rest for b in bad] == [True]


@pytest.mark.parametrize("keep", [0, 5, 100, 1200])
def test_truncated_arrow_files(tmp_path: Path, keep: int) -> None:
    for new, name in ((pa.ipc.new_file, "1.arrow"), (pa.ipc.new_stream, "2.arrow")):
        with new(tmp_path / name, TABLE.schema) as writer:
            writer.write_table(TABLE, max_chunksize=10)
        (tmp_path / "t.arrow").write_bytes((tmp_path / name).read_bytes()[:keep])
        rows, bad = read(source(tmp_path, {"a": pa.int64()}, format="arrow", path=(name, "t.arrow")))
        assert rows[:100] == [(n, {"a": n}) for n in range(100)]
        assert bad[-1].rest
        assert bad[-1].path == "t.arrow"


def saved(folder: Path, files: dict[str, pa.Table], **more: object) -> Path:
    folder.mkdir()
    for name, table in files.items():
        with pa.ipc.new_stream(folder / name, table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in files], "_fingerprint": "f", **more}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def test_a_saved_hugging_face_dataset_is_read_in_the_order_of_its_state(tmp_path: Path) -> None:
    files = {"data-00001.arrow": TABLE.slice(0, 60), "data-00000.arrow": TABLE.slice(60)}
    saved(tmp_path / "train", files)
    found = source(tmp_path, format="huggingface", path="train")
    assert values(found) == TABLE.to_pylist()
    assert [file.name for file in found.describe()] == ["train/data-00001.arrow", "train/data-00000.arrow"]


def test_what_is_no_saved_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"state\.json"):
        source(tmp_path, format="huggingface", path="nowhere")
    saved(tmp_path / "chosen", {"d.arrow": TABLE}, _indices_data_files=[{"filename": "i.arrow"}])
    with pytest.raises(RequestError, match="flatten_indices"):
        source(tmp_path, format="huggingface", path="chosen")
    for state in ("", "[]", "{}", '{"_data_files": 1}', '{"_data_files": [{"filename": "../../secret"}]}'):
        (tmp_path / "chosen" / "state.json").write_text(state)
        with pytest.raises(RequestError, match="save_to_disk"):
            source(tmp_path, format="huggingface", path="chosen")
