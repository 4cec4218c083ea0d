"""Access logs as they are: common and combined format, JSON lines, gz; whatever else is refused with its first line."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import NotFoundError, RequestError
from lightmill.serving.simulation.access_log import read_times, time_of

COMMON = '127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326'
COMBINED = COMMON + ' "http://www.example.com/start.html" "Mozilla/4.08 [en] (Win98; I ;Nav)"'
MOMENT = 971211336.0


@pytest.mark.parametrize(
    "line",
    [
        COMMON,
        COMBINED,
        '{"time": 971211336}',
        '{"ts": 971211336000}',
        '{"timestamp": "971211336.0"}',
        '{"@timestamp": "2000-10-10T20:55:36Z"}',
        '{"time_iso8601": "2000-10-10T13:55:36-07:00"}',
        '{"time": "2000-10-10 20:55:36"}',
        '{"time_local": "10/Oct/2000:13:55:36 -0700"}',
        "2 [10/Oct/2000:20:55:36] haproxy without a zone is UTC",
    ],
)
def test_a_time_is_read_from(line: str) -> None:
    assert time_of(line, "") == MOMENT


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "{",
        "{}",
        "{1}",
        '{"time": null}',
        '{"time": true}',
        '{"time": [1]}',
        '{"time": "soon"}',
        '{"time": "nan"}',
        '{"time": "1e999"}',
        '{"time": NaN}',
        '{"time": Infinity}',
        "[32/Oct/2000:13:55:36 -0700]",
        "[10/Foo/2000:13:55:36 -0700]",
    ],
)
def test_a_line_without_a_time(line: str) -> None:
    assert time_of(line, "") is None


@given(st.text(max_size=200))
def test_no_line_is_too_strange(line: str) -> None:
    for text in (line, "{" + line, json.dumps({"time": line}), f"[{line}]"):
        found = time_of(text, "")
        assert found is None or abs(found) < 1e15


@given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)))
def test_every_moment_comes_through(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    assert time_of(f"- - [{moment:%d/%b/%Y:%H:%M:%S %z}] x", "") == moment.timestamp()
    assert time_of(json.dumps({"at": moment.isoformat()}), "at") == moment.timestamp()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_log_is_read_in_order_with_some_lines_that_are_none(tmp_path: Path, zipped: bool) -> None:
    text = f"# fields\n\n{COMMON}\n{COMMON.replace('13:55:36', '13:55:30')}\n{COMMON.replace('13:55:36', '13:56:00')}\n"
    path = tmp_path / "access.log"
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    assert read_times(path, "", 100) == [0, 6, 30]
    assert read_times(path, "", 2) == [0, 6]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "0 of 0 lines"),
        (b"hello\n" * 3, "3 of 3 lines have no time, the first is 'hello'"),
        (COMMON.encode() + b"\nx\ny\n", "2 of 3 lines"),
        (b"\x1f\x8bnothing", "cannot be read"),
        (gzip.compress(COMMON.encode() * 99)[:-9], "cannot be read"),
        (b"\xff\xfe" * 40_000, "have no time"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(data)
    with pytest.raises(RequestError, match=says):
        read_times(path, "", 100)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="No file at"):
        read_times(tmp_path / "nowhere", "", 1)
