"""JSON lines: clean blocks at once, bad rows one by one, and nothing that could end the process."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import RequestError
from tests.unit.datasets.sources.reading import read, source, values

INTEGER = {"a": pa.int64()}


def written(folder: Path, content: bytes, name: str = "d.jsonl") -> Path:
    (folder / name).write_bytes(content)
    return folder


def test_undeclared_columns_have_the_types_of_the_first_rows(tmp_path: Path) -> None:
    content = b'{"a":1,"s":"2020-01-01","l":[1,2],"o":{"x":null}}\n{"a":null,"s":"x","l":[],"o":{"x":"y"}}\n'
    found = source(written(tmp_path, content), format="jsonl", path="d.jsonl")
    assert found.schema().field("s").type == pa.string()
    assert values(found)[0] == {"a": 1, "s": "2020-01-01", "l": [1, 2], "o": {"x": None}}


@pytest.mark.parametrize("part_bytes", [1, 20, 1 << 20])
def test_every_kind_of_bad_row_is_reported_with_its_place(tmp_path: Path, part_bytes: int) -> None:
    lines = [
        b'{"a":1}',
        b'{"a":tru}',
        b'{"a":"x"}',
        b"",
        b'{"a":1}{"a":2}',
        b"[1]",
        b'{"a":1.5}',
        b'{"a":1,"a":2}',
        b'{"a":\xff}',
        b'{"a":7,',
        b'"b":8}',
        b'{"a":99999999999999999999}',
        b'{"a":9}',
    ]
    found = source(written(tmp_path, b"\n".join(lines)), INTEGER, format="jsonl", path="d.jsonl", part_bytes=part_bytes)
    rows, bad = read(found)
    assert rows == [(0, {"a": 1}), (11, {"a": 9})]
    assert [b.row for b in bad] == list(range(1, 11))
    assert [b.row for b in bad if b.kind == "type"] == [2, 5, 10]
    assert bad[0].text == '{"a":tru}'
    assert "99999" not in bad[-1].reason


def test_an_object_over_two_lines_is_two_bad_rows_and_never_a_wrong_one(tmp_path: Path) -> None:
    rows, bad = read(source(written(tmp_path, b'{"a":\n1}\n{"a":2}\n'), INTEGER, format="jsonl", path="d.jsonl"))
    assert rows == [(2, {"a": 2})]
    assert [b.row for b in bad] == [0, 1]


@pytest.mark.parametrize("depth", [65, 10_000, 1_000_000])
def test_deep_nesting_is_a_bad_row_and_no_crash(tmp_path: Path, depth: int) -> None:
    deep = b'{"a":' + b"[" * depth + b"]" * depth + b"}\n"
    for columns in (INTEGER, None):
        content = b'{"a":1}\n' + deep + b'{"a":2}\n'
        rows, bad = read(source(written(tmp_path, content), columns, format="jsonl", path="d.jsonl"))
        assert rows == [(0, {"a": 1}), (2, {"a": 2})]
        assert [(b.row, "limits.depth" in b.reason) for b in bad] == [(1, True)]


@pytest.mark.parametrize("line", [b'{"a":', b'{"}":', b"[", b'{"a":"\\"}":', b'{"\\\\":'])
def test_nesting_that_goes_on_from_line_to_line_is_no_crash(tmp_path: Path, line: bytes) -> None:
    content = b'{"a":1}\n' + (line + b"\n") * 12_000
    rows, bad = read(source(written(tmp_path, content), INTEGER, format="jsonl", path="d.jsonl"))
    assert rows == [(0, {"a": 1})]
    assert len(bad) == 12_000


@pytest.mark.parametrize(
    "line",
    [b"null", b" null ", b'{"a":1}null', b'{"a":1} null {"a":1}', b'{"a":1}null"}', b'{"a":1}\\"null}', b"}null"],
)
@pytest.mark.parametrize("columns", [INTEGER, None])
def test_a_null_for_a_row_is_a_bad_row_and_no_crash(tmp_path: Path, line: bytes, columns: dict | None) -> None:
    for content in (line, b'{"a":1}\r\n' + line + b'\r\n{"a":[2,{"b":3}]}\n'):
        folder = written(tmp_path, b'{"a":1}\n' + content + b"\n")
        for part_bytes in (1, 1 << 20):
            found = source(folder, columns, format="jsonl", path="d.jsonl", part_bytes=part_bytes)
            rows, bad = read(found)
            assert rows[0][0] == 0
            assert bad


def test_many_brackets_that_are_not_deep_are_fine(tmp_path: Path) -> None:
    row: Any = {"a": [[n, n] for n in range(500)], "s": "[[[[{{{{" * 100}
    found = source(written(tmp_path, (json.dumps(row) + "\n").encode() * 3), format="jsonl", path="d.jsonl")
    assert values(found) == [row] * 3


def test_an_unexpected_key_is_reported_or_ignored(tmp_path: Path) -> None:
    written(tmp_path, b'{"a":1}\n', "1.jsonl")
    written(tmp_path, b'{"a":2,"b":3}\n', "2.jsonl")
    _, bad = read(source(tmp_path, format="jsonl", path="*.jsonl"))
    assert [(b.path, b.row, b.kind) for b in bad] == [("2.jsonl", 0, "type")]
    assert values(source(tmp_path, format="jsonl", path="*.jsonl", unexpected="ignore")) == [{"a": 1}, {"a": 2}]
    assert values(source(tmp_path, INTEGER, format="jsonl", path="*.jsonl")) == [{"a": 1}, {"a": 2}]


def test_a_column_that_changes_type_between_files_is_reported(tmp_path: Path) -> None:
    written(tmp_path, b'{"a":1}\n', "1.jsonl")
    written(tmp_path, b'{"a":"x"}\n{"a":2}\n', "2.jsonl")
    rows, bad = read(source(tmp_path, format="jsonl", path="*.jsonl"))
    assert len(rows) == 2
    assert [(b.path, b.row, b.kind) for b in bad] == [("2.jsonl", 0, "type")]


def test_infinities_and_numbers_too_large(tmp_path: Path) -> None:
    content = b'{"a":Infinity}\n{"a":1e400}\n{"a":1e300}\n'
    rows, bad = read(source(written(tmp_path, content), {"a": pa.float64()}, format="jsonl", path="d.jsonl"))
    assert [row["a"] for _, row in rows] == [float("inf"), 1e300]
    assert [(b.row, b.kind) for b in bad] == [(1, "type")]


@pytest.mark.parametrize("content", [b"", b"[1]\n"])
def test_a_file_without_objects_has_no_schema(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(RequestError, match=r"d\.jsonl"):
        source(written(tmp_path, content), format="jsonl", path="d.jsonl").schema()


def test_a_cell_of_10_mb_and_encodings(tmp_path: Path) -> None:
    content = '{"a":1,"s":"ü"}\r\n{"a":2,"s":"' + "x" * 10_000_000 + '"}\r\n'
    short = content.replace("x" * 10_000_000, "x" * 10)
    for text, encoding, length in ((content, "utf-8", 10_000_000), (short, "utf-8-sig", 10), (short, "utf-16", 10)):
        folder = written(tmp_path, text.encode(encoding))
        found = source(folder, {"a": pa.int64(), "s": pa.string()}, format="jsonl", path="d.jsonl")
        assert [len(row["s"]) for row in values(found)] == [1, length]


KEYS = st.text(st.characters(codec="utf-8"), max_size=10)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "n": st.none() | st.integers(-(2**63), 2**63 - 1),
            "s": st.none() | KEYS,
            "l": st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
        }
    ),
    max_size=30,
)
COLUMNS = {"n": pa.int64(), "s": pa.string(), "l": pa.list_(pa.float64())}


@settings(deadline=None, max_examples=60, derandomize=True)
@given(ROWS, st.integers(1, 300), st.integers(1, 20), st.booleans())
def test_any_rows_are_read_the_same_in_parts_of_any_size(
    rows: list[dict], part_bytes: int, batch_rows: int, ascii_only: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows) or "\n"
        (Path(folder) / "d.jsonl").write_text(lines, encoding="utf-8", newline="")
        found = source(Path(folder), COLUMNS, format="jsonl", path="d.jsonl", part_bytes=part_bytes)
        got, bad = read(found, batch_rows)
    assert bad == []
    assert got == list(enumerate(rows))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.sampled_from([b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b"1", b"\n", b"a", b"\xff"])))
def test_no_bytes_crash_it(pieces: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "d.jsonl").write_bytes(b"".join(pieces) + b'\n{"a":5}\n')
        rows, _ = read(source(Path(folder), INTEGER, format="jsonl", path="d.jsonl"))
    assert not rows or rows[-1][1] == {"a": 5}
