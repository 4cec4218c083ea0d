from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from lightmill.datasets.csv_source import CsvSource, column_types, describe_source, find_source, read_rows
from lightmill.errors import NotFoundError, RequestError
from tests.unit.datasets.examples import spec

HEADER = "a,b,y,note\n"
TYPES = column_types(spec())


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "d.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path) -> list[dict]:
    return pa.concat_tables(read_rows(str(path), TYPES)).to_pylist()


def test_declared_columns_are_read_with_row_numbers_from_zero(tmp_path: Path) -> None:
    found = rows(written(tmp_path, HEADER + "1,2.5,no,hello\n3,4,yes,\n"))
    assert found == [{"row_id": 0, "a": 1, "b": 2.5, "y": "no"}, {"row_id": 1, "a": 3, "b": 4.0, "y": "yes"}]


def test_columns_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    found = rows(written(tmp_path, "y,extra,b,note,a\nno,z,2,n,1\n"))
    assert found == [{"row_id": 0, "a": 1, "b": 2.0, "y": "no"}]
    assert column_types(spec()) == {"a": pa.int64(), "b": pa.float64(), "y": pa.string()}


def test_every_spelling_of_missing_is_missing(tmp_path: Path) -> None:
    lines = "".join(f"{word},{word},{word},x\n" for word in ("NA", "NaN", "nan", "null", "NULL", "?"))
    found = rows(written(tmp_path, HEADER + lines + ",,,\n"))
    assert len(found) == 7
    assert all(row["a"] is None and row["b"] is None and row["y"] is None for row in found)


def test_row_numbers_go_on_from_block_to_block(tmp_path: Path) -> None:
    count = 40_000
    long = "x" * 500
    path = written(tmp_path, HEADER + "".join(f"{n % 10},0.5,no,{long}\n" for n in range(count)))
    tables = list(read_rows(str(path), TYPES))
    assert len(tables) > 1
    ids = pa.concat_tables(tables).column("row_id").to_pylist()
    assert ids == list(range(count))


@pytest.mark.parametrize("line", ["1,2.5,no\n", "1,2.5,no,x,y\n"])
def test_a_ragged_row_is_refused_with_its_file_and_remedy(tmp_path: Path, line: str) -> None:
    path = written(tmp_path, HEADER + "1,2.5,no,x\n" + line)
    with pytest.raises(RequestError, match=r"d\.csv.*Expected 4 columns.*Correct"):
        rows(path)


@pytest.mark.parametrize(
    ("line", "value"), [("one,2.5,no,x\n", "one"), ("1.5,2.5,no,x\n", "1.5"), ("1,much,no,x\n", "much")]
)
def test_a_value_of_another_type_is_refused_with_the_value(tmp_path: Path, line: str, value: str) -> None:
    path = written(tmp_path, HEADER + "1,2.5,no,x\n" + line)
    with pytest.raises(RequestError) as caught:
        rows(path)
    assert value in caught.value.message and "d.csv" in caught.value.message


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="d.csv"):
        rows(written(tmp_path, HEADER.encode() + b"1,2.5,\xff\xfe,x\n"))
    with pytest.raises(RequestError, match="UTF-8"):
        find_source(spec(), written(tmp_path, b"a,b,y,\xff\n").parent)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    with pytest.raises(RequestError, match="it has none"):
        find_source(spec(), tmp_path)
    with pytest.raises(RequestError, match="d.csv"):
        rows(path)


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER)
    assert sum(len(table) for table in read_rows(str(path), TYPES)) == 0


def test_the_source_is_found_beside_the_specification(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER)
    assert find_source(spec(), tmp_path) == path
    with pytest.raises(NotFoundError, match="No source file at"):
        find_source(spec(), tmp_path / "elsewhere")


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbf" + HEADER.encode() + b"1,2.5,no,x\n")
    assert find_source(spec(), tmp_path) == path
    assert rows(path)[0]["a"] == 1


def test_a_missing_column_is_refused_with_what_there_is(tmp_path: Path) -> None:
    written(tmp_path, "a,c,y\n")
    with pytest.raises(RequestError, match=r"no column 'b'.*a, c, y.*Correct `columns`"):
        find_source(spec(), tmp_path)
    written(tmp_path, "q\n")
    with pytest.raises(RequestError, match="nor 2 other declared ones"):
        find_source(spec(), tmp_path)


def test_a_declared_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "a,b,a,y,note\n")
    with pytest.raises(RequestError, match="column 'a' twice"):
        find_source(spec(), tmp_path)


def test_an_undeclared_column_may_stand_twice(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b,z,z,y,note\n1,2,3,4,no,x\n")
    assert find_source(spec(), tmp_path) == path
    assert rows(path) == [{"row_id": 0, "a": 1, "b": 2.0, "y": "no"}]


def test_a_source_is_described_by_name_size_and_digest(tmp_path: Path) -> None:
    found = describe_source(written(tmp_path, "abc"))
    assert (found.name, found.size_bytes) == ("d.csv", 3)
    assert found.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180


def test_ray_reads_a_file_in_one_task(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "1,2.5,no,x\n")
    source = CsvSource(path, TYPES)
    (task,) = source.get_read_tasks(8)
    assert pa.concat_tables(task.read_fn()).num_rows == 1
    assert source.estimate_inmemory_data_size() == path.stat().st_size
