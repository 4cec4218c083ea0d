from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from lightmill.access import mint_key
from lightmill.serving.signals.access_log import AccessLog, Answered
from lightmill.serving.signals.log_file import LogFile
from tests.unit.access.issuing import token


def answered(**fields: Any) -> Answered:
    values: dict[str, Any] = {
        "at": 1_900_000_000.25, "request_id": "r-1", "caller": "00112233", "method": "POST",
        "path": "/v2/models/digits/infer", "status": 200, "protocol": "oip", "total_s": 0.0123456, "bytes_in": 10,
        "bytes_out": 20, "rows": 3, "queue_s": 0.001, "batch_wait_s": 0.0, "compute_s": 0.01,
    }  # fmt: skip
    return Answered(**{**values, **fields})


class Lines:
    def __init__(self) -> None:
        self.data = b""

    def __call__(self, data: bytes) -> None:
        self.data += data

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.data.splitlines()]


def test_a_request_is_one_line_of_json() -> None:
    lines = Lines()
    log = AccessLog("digits", "4", write=lines)
    log.offer(answered())
    log.offer(answered(status=400, rows=0, error="RequestError", at=1_900_000_001.0, trace_id="ab" * 16))
    assert log.flush() == 2 and log.flush() == 0
    assert lines.json[0] == {
        "time": "2030-03-17T17:46:40.250Z", "request": "r-1", "endpoint": "digits", "version": "4",
        "caller": "00112233", "method": "POST", "path": "/v2/models/digits/infer", "protocol": "oip", "status": 200,
        "bytes_in": 10, "bytes_out": 20, "total_us": 12345, "rows": 3, "queue_us": 1000, "batch_wait_us": 0,
        "compute_us": 10000,
    }  # fmt: skip
    assert (lines.json[1]["time"], lines.json[1]["error"]) == ("2030-03-17T17:46:41.000Z", "RequestError")
    assert lines.json[1]["trace"] == "ab" * 16 and "rows" not in lines.json[1]


@pytest.mark.parametrize("place", ["path", "request_id", "method"])
def test_a_key_that_a_client_put_in_the_wrong_place_is_not_written(place: str) -> None:
    lines, (key, _) = Lines(), mint_key("x")
    sent = token().decode()
    log = AccessLog("digits", "4", write=lines)
    for secret in (key, sent):
        log.offer(answered(**{place: f"/a/{secret}"}))
    log.flush()
    assert len(lines.json) == 2
    for secret in (key[12:], sent.split(".")[1], sent.split(".")[2]):
        assert secret.encode()[:16] not in lines.data


def test_a_path_cannot_begin_another_line() -> None:
    lines = Lines()
    log = AccessLog("digits", "4", write=lines)
    log.offer(answered(path='/\n{"status": 200}\r"', request_id="a\nb"))
    log.flush()
    assert len(lines.data.splitlines()) == 1


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    lines = Lines()
    log = AccessLog("digits", "4", write=lines, most=5)
    for _ in range(12):
        log.offer(answered())
    assert (log.flush(), log.dropped) == (5, 7)
    log.offer(answered())
    assert log.flush() == 1


def test_a_sample_keeps_a_share_and_every_error() -> None:
    chances = iter([0.1, 0.9, 0.29, 0.3])
    log = AccessLog("digits", "4", 0.3, write=Lines(), chance=lambda: next(chances))
    for _ in range(4):
        log.offer(answered())
    log.offer(answered(status=500))
    assert log.flush() == 3
    none = AccessLog("digits", "4", 0.0, write=Lines())
    none.offer(answered(status=500))
    assert none.flush() == 0


def test_a_file_rolls_over_and_the_oldest_goes(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "logs" / "access.jsonl", roll_bytes=10, kept=2)
    for number in range(7):
        file(b"line %d\n" % number)
    found = {path.name: path.read_bytes() for path in file.path.parent.iterdir()}
    assert found == {
        "access.jsonl": b"line 6\n",
        "access.jsonl.1": b"line 4\nline 5\n",
        "access.jsonl.2": b"line 2\nline 3\n",
    }
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
