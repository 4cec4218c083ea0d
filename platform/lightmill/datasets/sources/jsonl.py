"""JSON lines. Clean blocks go through pyarrow's reader, after a check that each line is an object and not too deep.

Deep nesting overflows the stack of pyarrow's reader, and a line `null` is read through a null pointer: both end
the process. It also takes bytes that are no UTF-8. So all three are checked before it sees a line. Blocks with a
bad row are halved until that row stands alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pyarrow import json as arrow_json

from lightmill.datasets.sources.file_source import Rows
from lightmill.datasets.sources.files import FileRef, Place
from lightmill.datasets.sources.line_source import LineSource
from lightmill.datasets.sources.port import BadKind, BadRow, OnBad, Part, bad_text, consecutive
from lightmill.datasets.sources.problems import DamageError
from lightmill.datasets.sources.streams import BLOCK_BYTES, as_utf8, blocks, codec_of, count_rows, decompressed
from lightmill.records.sources import JsonlSpec

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.S)
_BRACKET = re.compile(rb"[\[\]{}]")
_QUOTE = 2
_MARKS = np.zeros(256, dtype=np.int8)
_MARKS[[ord("{"), ord("[")]] = 1
_MARKS[[ord("}"), ord("]")]] = -1
_MARKS[ord('"')] = _QUOTE
_PARSE_BYTES = 1 << 20
_SAMPLE_BYTES = 4 << 20
_TYPE_WORDS = ("changed from", "onversion", "onvert", "too big", "unexpected field")


class JsonlSource(LineSource[JsonlSpec]):
    """Files of one JSON object a line. Undeclared columns have the types that the first 4 MiB show."""

    suffixes = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".jsonl.zst", ".ndjson.gz", ".json.gz")

    def _file_schema(self, place: Place, file: FileRef) -> pa.Schema:
        if self.columns is not None:
            return pa.schema(list(self.columns.items()))
        with place.open(file) as opened:
            codec = codec_of(file.path, self.spec.compression)
            text = as_utf8(decompressed(opened, codec, self.limits.expansion), self.spec.encoding)[0]
            head = next(blocks(text, self.limits.cell_bytes, size=_SAMPLE_BYTES), None)
        if head is None:
            raise DamageError("the file is empty")
        lines, _ = self._readable(head.data)
        tables = [table for table, _ in _halved(lines, None, "infer") if table is not None]
        if not tables:
            raise DamageError("none of its first rows is a JSON object")
        found = pa.unify_schemas([table.schema for table in tables], promote_options="permissive")
        return pa.schema([pa.field(field.name, _plain(field.type)) for field in found])

    def _block(self, data: bytes, first: int, part: Part, on_bad: OnBad) -> tuple[pa.Table, Rows, int]:
        count = count_rows(data)
        if _is_utf8(data) and _is_safe(data, count, self.limits.depth):
            table = _parsed(data, self.schema(), self._unexpected())
            if table is not None and len(table) == count:
                return *self.conform(table, consecutive(first, count), part, on_bad), count
        return *self._mend(data, first, part, on_bad), count

    def _unexpected(self) -> str:
        return "ignore" if self.columns is not None or self.spec.unexpected == "ignore" else "error"

    def _readable(self, data: bytes) -> tuple[list[bytes], dict[int, str]]:
        """Return the lines that are not empty, and what is wrong with those that must not be parsed."""
        lines = [line for line in re.split(rb"[\r\n]+", data) if line]
        wrong = {number: reason for number, line in enumerate(lines) if (reason := _danger(line, self.limits.depth))}
        return [b"" if number in wrong else line for number, line in enumerate(lines)], wrong

    def _mend(self, data: bytes, first: int, part: Part, on_bad: OnBad) -> tuple[pa.Table, Rows]:
        """Return the good rows of a block that has bad ones; a loop over its lines."""
        lines, wrong = self._readable(data)
        raw = [line for line in re.split(rb"[\r\n]+", data) if line] if wrong else lines
        numbers = [number for number in range(len(lines)) if number not in wrong]
        tables: list[pa.Table] = []
        rows: list[Rows] = []
        found = [self._bad(number, reason, "unreadable", raw, first, part) for number, reason in wrong.items()]
        for run in _runs(numbers):
            at = run.start
            for table, outcome in _halved(lines[run], self.schema(), self._unexpected()):
                if table is None:
                    reason, kind = outcome
                    found.append(self._bad(at, reason, kind, raw, first, part))
                    at += 1
                else:
                    tables.append(table)
                    rows.append(consecutive(first + at, len(table)))
                    at += len(table)
        for bad in sorted(found, key=lambda bad: bad.row):
            on_bad(bad)
        if not tables:
            return self.schema().empty_table(), consecutive(0, 0)
        return self.conform(pa.concat_tables(tables), np.concatenate(rows), part, on_bad)

    def _bad(self, at: int, reason: str, kind: BadKind, raw: Sequence[bytes], first: int, part: Part) -> BadRow:
        text = bad_text(raw[at])
        return BadRow(file=part.file, path=part.path, row=first + at, kind=kind, reason=reason, text=text)


def _halved(
    lines: Sequence[bytes], schema: pa.Schema | None, unexpected: str
) -> list[tuple[pa.Table | None, tuple[str, BadKind]]]:
    """Return in order tables of good lines, and for each bad line None with its reason and kind."""
    found: list[tuple[pa.Table | None, tuple[str, BadKind]]] = []
    waiting = [(0, len(lines))]
    while waiting:
        start, end = waiting.pop()
        data = b"\n".join(line for line in lines[start:end])
        table = _parsed(data, schema, unexpected) if schema is not None or data.strip() else None
        if table is not None and len(table) == end - start:
            found.append((table, ("", "type")))
        elif end - start == 1:
            found.append((None, _reason(data, schema, unexpected)))
        elif end > start:
            middle = (start + end) // 2
            waiting += [(middle, end), (start, middle)]
    return found


def _parsed(data: bytes, schema: pa.Schema | None, unexpected: str) -> pa.Table | None:
    """Return the rows, or None when one of them is bad; a row may be larger than what is parsed at a time."""
    for size in (_PARSE_BYTES, len(data) + 1):
        try:
            return _read(data, schema, unexpected, size)
        except pa.ArrowInvalid as exc:
            if "straddling" not in str(exc):
                return None
        except pa.ArrowNotImplementedError:
            return None
    return None


def _read(data: bytes, schema: pa.Schema | None, unexpected: str, size: int) -> pa.Table:
    return arrow_json.read_json(
        pa.BufferReader(data),
        read_options=arrow_json.ReadOptions(block_size=min(size, BLOCK_BYTES * 64), use_threads=len(data) > size),
        parse_options=arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=unexpected),
    )


def _reason(line: bytes, schema: pa.Schema | None, unexpected: str) -> tuple[str, BadKind]:
    """Return what is wrong with one line, without its values."""
    try:
        _read(line, schema, unexpected, len(line) + 1)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        said = str(exc).splitlines()[0]
        kind: BadKind = (
            "type" if any(word in said for word in _TYPE_WORDS) and "Column() " not in said else "unreadable"
        )
        said = re.sub(r"couldn't parse:.*", "the number does not fit", said)
        return re.sub(r" in row \d+$", "", said)[:200].rstrip("."), kind
    return "it is no JSON object", "unreadable"


def _runs(numbers: Sequence[int]) -> list[slice]:
    """Return slices of consecutive numbers."""
    found: list[slice] = []
    for number in numbers:
        if found and found[-1].stop == number:
            found[-1] = slice(found[-1].start, number + 1)
        else:
            found.append(slice(number, number + 1))
    return found


def _is_safe(data: bytes, rows: int, limit: int) -> bool:
    """Return whether a block is surely an object a line, none nested deeper than `limit`.

    Rows that are flat objects without brackets in their strings are recognised by counting alone; for others
    the depth of every bracket is computed, with strings told apart. A block with other white space around its
    objects is not sure, and looked at line by line. A line break in a string is an error to the reader, so no
    string goes on into the next line.
    """
    closed = data if data.endswith(b"\n") else data + b"\n"
    codes = np.frombuffer(closed, dtype=np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))
    if len(ends) != rows or codes[0] != ord("{") or not (codes[ends[:-1] + 1] == ord("{")).all():
        return False
    if closed.count(b"{") == rows == closed.count(b"}") and b"[" not in closed:
        return bool((codes[ends - 1] == ord("}")).all())
    bare = closed.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in closed else closed
    codes = np.frombuffer(bare, dtype=np.uint8)
    marks = _MARKS[codes]
    places = np.flatnonzero(marks)
    marks = marks[places]
    outside = np.cumsum(marks == _QUOTE, dtype=np.int32) % 2 == 0
    depth = np.cumsum(np.where(outside & (marks != _QUOTE), marks, 0), dtype=np.int32)
    ends = places[outside & (marks == -1) & (depth == 0)]
    after = codes[ends + 1]
    after = np.where(after == ord("\r"), codes[np.minimum(ends + 2, len(codes) - 1)], after)
    return len(ends) == rows and bool((after == ord("\n")).all()) and int(depth.max()) <= limit


def _danger(line: bytes, limit: int) -> str:
    """Return why a line must not be parsed, or an empty string: it must be one object, not too deep."""
    if not _is_utf8(line):
        return "its bytes are no UTF-8; declare the encoding"
    bare = _STRING.sub(b"", line).strip(b" \t")
    if not bare.startswith(b"{"):
        return "it is no JSON object"
    depth = 0
    for bracket in _BRACKET.finditer(bare):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > limit:
            return f"it is nested deeper than limits.depth of {limit}"
        if depth <= 0:
            return "" if bracket.end() == len(bare) else "it goes on after a JSON object"
    return "it is no whole JSON object"


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return a type without guesses: no timestamps read out of strings, no columns of nulls only."""
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain(field.type)) for field in kind])
    return kind
