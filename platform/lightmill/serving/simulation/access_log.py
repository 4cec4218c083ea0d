"""Times of requests in access logs: common and combined log format, or JSON lines; gz too.

A log is read line by line, so that its size does not matter. Lines that are none are skipped, up to half of them: a log
that says nothing of most requests is refused rather than replayed as less than it was.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from lightmill.errors import NotFoundError, RequestError

LINE_MAX = 1 << 16
FIELDS = ("time", "timestamp", "ts", "@timestamp", "time_local", "time_iso8601", "start_time")
MILLISECONDS_FROM = 1e11
"""Numbers from here on are milliseconds of Unix time; as seconds they would be after the year 5000."""
_BRACKETS = re.compile(r"\[(\d{2}/[A-Za-z]{3}/\d{4}:\d{2}:\d{2}:\d{2}(?: [+-]\d{4})?)\]")


def read_times(path: Path, field: str, most: int) -> list[float]:
    """Return when the first `most` requests came, in seconds after the first, in order.

    Args:
        path: The log; a gz file by its first bytes.
        field: The name of the time in JSON lines; by default one of `FIELDS`.
        most: At most so many lines with a time are read.

    Raises:
        NotFoundError: There is no such file.
        RequestError: It is no access log, or most of its lines have no time that could be read.
    """
    if not path.is_file():
        raise NotFoundError(f"No file at {path}. Give the path of an access log.")
    found: list[float] = []
    bad, first_bad = 0, ""
    try:
        for line in _lines(path):
            moment = time_of(line, field)
            if moment is None:
                bad += 1
                first_bad = first_bad or line[:80]
            else:
                found.append(moment)
                if len(found) == most:
                    break
    except (OSError, EOFError) as exc:
        raise RequestError(f"{path} cannot be read: {exc}.") from exc
    if not found or bad > len(found):
        raise RequestError(
            f"{path}: {bad} of {bad + len(found)} lines have no time, the first is {first_bad!r}. Give a log in common "
            "or combined format, or JSON lines, and name their field of the time."
        )
    found.sort()
    return [moment - found[0] for moment in found]


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        source = gzip.GzipFile(fileobj=raw) if zipped else raw
        while line := source.readline(LINE_MAX):
            text = line.decode("utf-8", "replace").strip()
            if text:
                yield text


def time_of(line: str, field: str) -> float | None:
    """Return the Unix time in a line, None if there is none that can be read."""
    if not line.startswith("{"):
        match = _BRACKETS.search(line)
        return _clf_time(match[1]) if match else None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    names = (field,) if field else FIELDS
    value = next((entry[name] for name in names if name in entry), None)
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return _number_time(value)
    return _text_time(str(value))


def _number_time(value: float) -> float | None:
    if not abs(value) < MILLISECONDS_FROM * 1000:
        return None
    return float(value) / 1000 if abs(value) >= MILLISECONDS_FROM else float(value)


def _text_time(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        pass
    else:
        return _number_time(number)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return _clf_time(value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _clf_time(value: str) -> float | None:
    for form in ("%d/%b/%Y:%H:%M:%S %z", "%d/%b/%Y:%H:%M:%S"):
        try:
            moment = datetime.strptime(value, form)
        except ValueError:
            continue
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return None
