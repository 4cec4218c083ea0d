"""CSV: clean files as pyarrow reads them, and every kind of bad one reported, row by row."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.datasets.sources import refuse
from lightmill.errors import RequestError
from tests.unit.datasets.sources.reading import at, read, source, values

INTEGER = {"a": pa.int64(), "b": pa.string()}
NUMBERS = {"a": pa.int64(), "b": pa.float64()}


def written(folder: Path, content: bytes, name: str = "d.csv") -> Path:
    (folder / name).write_bytes(content)
    return folder


def test_undeclared_columns_are_strings_as_they_stand(tmp_path: Path) -> None:
    found = source(written(tmp_path, b"a,b\n01,x\n1e5, y \n"), path="d.csv")
    assert values(found) == [{"a": "01", "b": "x"}, {"a": "1e5", "b": " y "}]


def test_declared_columns_come_in_their_order_and_others_are_left_out(tmp_path: Path) -> None:
    found = source(written(tmp_path, b"x,b,a\nq,2,1\n"), NUMBERS, path="d.csv")
    assert values(found) == [{"a": 1, "b": 2.0}]


def test_spellings_of_missing_are_declared(tmp_path: Path) -> None:
    folder = written(tmp_path, b"a,b\nNA,-\n,x\n")
    assert values(source(folder, path="d.csv")) == [{"a": None, "b": "-"}, {"a": None, "b": "x"}]
    assert values(source(folder, path="d.csv", null_values=["-"]))[0] == {"a": "NA", "b": None}


@pytest.mark.parametrize("part_bytes", [1, 7, 1 << 20])
def test_bad_rows_are_reported_with_their_place_and_the_rest_is_kept(tmp_path: Path, part_bytes: int) -> None:
    content = b'a,b\n1,x\n2\n\n3,y\nz,w\n4,\xff\n5,u,v\n1e2,k\n99999999999999999999,k\n6,"q""q"\n'
    rows, bad = read(source(written(tmp_path, content), INTEGER, path="d.csv", part_bytes=part_bytes))
    assert rows == [(0, {"a": 1, "b": "x"}), (2, {"a": 3, "b": "y"}), (8, {"a": 6, "b": 'q"q'})]
    assert [(b.row, b.kind, b.column) for b in bad] == [
        (1, "unreadable", None),
        (3, "type", "a"),
        (4, "unreadable", "b"),
        (5, "unreadable", None),
        (6, "type", "a"),
        (7, "type", "a"),
    ]
    assert bad[0].reason == "it has 1 cells, the header has 2"
    assert [b.text for b in bad] == ["2", "z,w", "4,\ufffd", "5,u,v", "1e2,k", "99999999999999999999,k"]
    assert not any(b.rest for b in bad)


def test_the_policy_fail_names_file_row_column_and_remedy_but_no_value(tmp_path: Path) -> None:
    found = source(written(tmp_path, b"a,b\n1,x\nsecret,y\n"), INTEGER, path="d.csv")
    with pytest.raises(RequestError, match=r"d\.csv, row 1, column 'a': the value is no int64\. .*rules\.type") as said:
        list(found.read(found.parts()[0], on_bad=refuse))
    assert "secret" not in said.value.message


def test_a_finite_number_too_large_is_no_infinity(tmp_path: Path) -> None:
    rows, bad = read(source(written(tmp_path, b"a,b\n1,inf\n2,1e400\n3,-Infinity\n4,-1e999\n"), NUMBERS, path="d.csv"))
    assert [row["b"] for _, row in rows] == [float("inf"), float("-inf")]
    assert [(b.row, b.kind, b.column) for b in bad] == [(1, "type", "b"), (3, "type", "b")]


def test_booleans_dates_and_times_convert_or_are_reported(tmp_path: Path) -> None:
    columns = {"a": pa.bool_(), "b": pa.date32(), "c": pa.timestamp("us")}
    content = b"a,b,c\ntrue,2020-01-02,2020-01-02 03:04:05\nyes,2020-01-02,2020-01-02\n0,2020-13-01,2020-01-02\n,,\n"
    rows, bad = read(source(written(tmp_path, content), columns, path="d.csv"))
    assert [at for at, _ in rows] == [0, 3]
    assert rows[1][1] == {"a": None, "b": None, "c": None}
    assert [(b.row, b.column) for b in bad] == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252", "utf-8"])
def test_declared_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    folder = written(tmp_path, "ä,b\r\nö,ü\r\n".encode(encoding))
    assert values(source(folder, path="d.csv", encoding=encoding)) == [{"ä": "ö", "b": "ü"}]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_says_the_encoding_itself(tmp_path: Path, encoding: str) -> None:
    folder = written(tmp_path, "ä,b\nö,ü\nx,y\n".encode(encoding))
    for part_bytes in (1, 1 << 20):
        found = source(folder, path="d.csv", part_bytes=part_bytes)
        assert values(found) == [{"ä": "ö", "b": "ü"}, {"ä": "x", "b": "y"}]


def test_latin_1_in_a_file_said_to_be_utf_8_is_never_guessed(tmp_path: Path) -> None:
    rows, bad = read(source(written(tmp_path, "a,b\nq,x\ngrün,y\n".encode("latin-1")), path="d.csv"))
    assert [row for _, row in rows] == [{"a": "q", "b": "x"}]
    assert (bad[0].row, bad[0].column, bad[0].text) == (1, "a", "gr\ufffdn,y")


def test_bytes_that_are_not_of_the_declared_encoding_end_the_part(tmp_path: Path) -> None:
    _, bad = read(source(written(tmp_path, b"a,b\n" + b"\x81\n"), path="d.csv", encoding="cp1252", header=["a"]))
    assert bad[0].rest
    assert "is not text in" in bad[0].reason


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_reported_whole(tmp_path: Path, content: bytes) -> None:
    written(tmp_path, b"a,b\n1,2\n", "1.csv")
    rows, bad = read(source(written(tmp_path, content, "2.csv"), path="*.csv"))
    assert len(rows) == 1
    assert [(b.path, b.row, b.rest) for b in bad] == [("2.csv", 0, True)]
    assert "empty" in bad[0].reason
    (tmp_path / "1.csv").unlink()
    with pytest.raises(RequestError, match="empty"):
        source(tmp_path, path="*.csv").schema()


def test_a_header_without_rows_is_no_rows(tmp_path: Path) -> None:
    for content in (b"a,b", b"a,b\n", b"a,b\r\n\r\n"):
        assert read(source(written(tmp_path, content), NUMBERS, path="d.csv", part_bytes=1)) == ([], [])


def test_a_column_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"d\.csv has the column 'a' twice"):
        source(written(tmp_path, b"a,b,a\n1,2,3\n"), path="d.csv").schema()


def test_a_declared_column_that_is_absent_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, b"a,c\n1,2\n")
    with pytest.raises(RequestError, match=r"d\.csv has no column 'b'; it has a, c"):
        source(folder, NUMBERS, path="d.csv").schema()


def test_a_later_file_must_have_the_same_columns_in_any_order(tmp_path: Path) -> None:
    written(tmp_path, b"a,b\n1,2\n", "1.csv")
    assert values(source(written(tmp_path, b"b,a\n4,3\n", "2.csv"), path="*.csv"))[1] == {"a": "3", "b": "4"}
    found = source(written(tmp_path, b"a,b,c\n4,3,5\n", "2.csv"), path="*.csv")
    with pytest.raises(RequestError, match=r"2\.csv has a column 'c' that the first file has not"):
        read(found)
    found = source(written(tmp_path, b"a,c\n4,3\n", "2.csv"), path="*.csv")
    with pytest.raises(RequestError, match=r"2\.csv has no column 'b'"):
        read(found)


def test_a_column_that_changes_type_between_files_is_reported_row_by_row(tmp_path: Path) -> None:
    written(tmp_path, b"a,b\n1,2\n", "1.csv")
    rows, bad = read(source(written(tmp_path, b"a,b\nx,2\n5,2\n", "2.csv"), NUMBERS, path="*.csv"))
    assert [id for id, _ in rows] == [at(0, 0), at(1, 1)]
    assert [(b.file, b.path, b.row, b.kind) for b in bad] == [(1, "2.csv", 0, "type")]


def test_line_breaks_inside_quotes_need_to_be_declared(tmp_path: Path) -> None:
    folder = written(tmp_path, b'a,b\n1,"x\ny"\n2,z\n')
    for part_bytes in (1, 1 << 20):
        _, bad = read(source(folder, path="d.csv", part_bytes=part_bytes))
        assert bad
    _, bad = read(source(folder, path="d.csv"))
    assert bad[0].rest
    assert "quoted_newlines" in bad[0].reason
    found = source(folder, path="d.csv", quoted_newlines=True, part_bytes=1)
    assert values(found) == [{"a": "1", "b": "x\ny"}, {"a": "2", "b": "z"}]


def test_bad_rows_among_quoted_line_breaks_keep_their_numbers(tmp_path: Path) -> None:
    content = b'a,b\n1,"x\n\n\ny"\n2\n3,"\xff\n"\nq,"\n"\n4,z\n'
    rows, bad = read(source(written(tmp_path, content), INTEGER, path="d.csv", quoted_newlines=True))
    assert rows == [(0, {"a": 1, "b": "x\n\n\ny"}), (4, {"a": 4, "b": "z"})]
    assert [(b.row, b.kind) for b in bad] == [(1, "unreadable"), (2, "unreadable"), (3, "type")]


@pytest.mark.parametrize("tail", [b'3,"x\n4,5\n', b'3,"x\n\n', b'3,"\r\n\r\n', b',"2,3\n\r\n'])
def test_an_open_quote_at_the_end_is_no_silent_row(tmp_path: Path, tail: bytes) -> None:
    for quoted in (False, True):
        for part_bytes in (1, 1 << 20):
            folder = written(tmp_path, b"a,b\n1,2\n" + tail)
            rows, bad = read(source(folder, path="d.csv", quoted_newlines=quoted, part_bytes=part_bytes))
            assert bad
            assert "3" not in [row["a"] for _, row in rows]


def test_nul_bytes_stay_in_strings_and_are_no_numbers(tmp_path: Path) -> None:
    rows, bad = read(source(written(tmp_path, b"a,b\n1,x\0y\n2\0,z\n"), INTEGER, path="d.csv"))
    assert rows == [(0, {"a": 1, "b": "x\0y"})]
    assert [(b.row, b.kind) for b in bad] == [(1, "type")]


def test_a_cell_of_10_mb_is_read_and_one_above_the_limit_reported(tmp_path: Path) -> None:
    cell = b"x" * 10_000_000
    folder = written(tmp_path, b"a,b\n1,y\n2," + cell + b"\n3,z\n")
    assert [len(row["b"]) for row in values(source(folder, INTEGER, path="d.csv"))] == [1, 10_000_000, 1]
    rows, bad = read(source(folder, INTEGER, path="d.csv", limits={"cell_bytes": 1_000_000}, part_bytes=2_000_000))
    assert rows == [(0, {"a": 1, "b": "y"}), (2, {"a": 3, "b": "z"})]
    assert [(b.row, "cell_bytes" in b.reason) for b in bad] == [(1, True)]
    assert len(bad[0].text) <= 64 << 10


def test_a_row_above_the_limit_that_spans_blocks_is_one_bad_row(tmp_path: Path) -> None:
    folder = written(tmp_path, b"a,b\n1,y\n2," + b"x" * 40_000_000 + b"\n3,z\n")
    for part_bytes in (1 << 20, 1 << 30):
        rows, bad = read(source(folder, path="d.csv", limits={"cell_bytes": 1 << 20}, part_bytes=part_bytes))
        assert [(id, row["a"]) for id, row in rows] == [(0, "1"), (2, "3")]
        assert [b.row for b in bad] == [1]


def test_too_many_columns_are_refused(tmp_path: Path) -> None:
    header = ",".join(f"c{n}" for n in range(11)).encode()
    with pytest.raises(RequestError, match=r"11 columns, more than limits\.columns of 10"):
        source(written(tmp_path, header + b"\n"), path="d.csv", limits={"columns": 10}).schema()


def test_other_delimiters_and_no_quotes(tmp_path: Path) -> None:
    folder = written(tmp_path, b'a\tb\n"x\ty"\n')
    assert values(source(folder, path="d.csv", delimiter="\t", quote=None)) == [{"a": '"x', "b": 'y"'}]


def test_compressed_files_are_read_and_truncated_ones_reported_whole(tmp_path: Path) -> None:
    content = b"a,b\n" + b"".join(b"%d,%d\n" % (n, n * n % 977) for n in range(20_000))
    packed = gzip.compress(content)
    written(tmp_path, bz2.compress(content), "x.csv.bz2")
    assert len(values(source(tmp_path, path="x.csv.bz2"))) == 20_000
    assert len(values(source(written(tmp_path, packed, "d.csv.gz"), NUMBERS, path="d.csv.gz", part_bytes=1))) == 20_000
    rows, bad = read(source(written(tmp_path, packed[: len(packed) // 2], "d.csv.gz"), NUMBERS, path="d.csv.gz"))
    assert bad[-1].rest
    assert bad[-1].row == len(rows) > 1000  # all rows before the damage, but for those of its last 64 KiB
    found = source(written(tmp_path, b"\x1f\x8b" + b"not gzip", "e.csv.gz"), NUMBERS, path="e.csv.gz")
    with pytest.raises(RequestError, match=r"e\.csv\.gz"):
        found.schema()


def test_a_decompression_bomb_is_stopped(tmp_path: Path) -> None:
    line = b"0" * 999 + b"\n"
    folder = written(tmp_path, gzip.compress(b"a\n" + line * 72_000), "d.csv.gz")
    rows, bad = read(source(folder, path="d.csv.gz", limits={"expansion": 10}), batch_rows=100_000)
    assert len(rows) < 72_000
    assert bad[-1].rest
    assert "limits.expansion" in bad[-1].reason


def test_a_file_that_changes_after_it_was_divided_is_refused(tmp_path: Path) -> None:
    found = source(written(tmp_path, b"a,b\n1,2\n3,4\n"), path="d.csv", part_bytes=1)
    parts = found.parts()
    written(tmp_path, b"a,b\n1,2\n3,4\n5,6\n")
    with pytest.raises(RequestError, match="has changed since"):
        list(found.read(parts[0]))


def test_describe_gives_name_size_and_digest(tmp_path: Path) -> None:
    (described,) = source(written(tmp_path, b"a\n1\n"), path="d.csv").describe()
    assert (described.name, described.size_bytes) == ("d.csv", 4)
    assert described.sha256 == hashlib.sha256(b"a\n1\n").hexdigest()


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12)
TABLES = st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), CELLS, st.floats(allow_nan=False)), max_size=40)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(TABLES, st.integers(1, 200), st.integers(1, 50), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_table_is_read_the_same_in_parts_of_any_size(
    rows: list[tuple[int, str, float]], part_bytes: int, batch_rows: int, ending: str, mark: bool
) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=ending, quoting=csv.QUOTE_ALL)
    writer.writerow(["n", "text", "x"])
    writer.writerows((n, text, repr(x)) for n, text, x in rows)
    columns = {"n": pa.int64(), "text": pa.string(), "x": pa.float64()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.csv"
        path.write_bytes(out.getvalue().encode("utf-8-sig" if mark else "utf-8"))
        found = source(Path(folder), columns, path="d.csv", part_bytes=part_bytes, null_values=["\0none"])
        got, bad = read(found, batch_rows)
        assert sum(part.rows or 0 for part in found.parts()) in (0, len(rows))
    assert bad == []
    assert got == [(at, {"n": n, "text": text, "x": x}) for at, (n, text, x) in enumerate(rows)]


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.binary(max_size=300), st.integers(1, 50))
def test_no_bytes_crash_it_and_row_ids_do_not_depend_on_the_parts(content: bytes, part_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "d.csv").write_bytes(b"a,b\n" + content)
        whole, bad = read(source(Path(folder), INTEGER, path="d.csv"))
        parts, more = read(source(Path(folder), INTEGER, path="d.csv", part_bytes=part_bytes))
    if not any(b.rest for b in [*bad, *more]):
        assert parts == whole
        assert [b.row for b in more] == [b.row for b in bad]
