"""Bad input as files, one builder for each kind; `GOOD` rows lie beside it and must come through exactly."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

GOOD = 40
COLUMNS: tuple[dict[str, Any], ...] = (
    {"name": "n", "dtype": "float64", "max_nulls": 0.0},
    {"name": "t", "dtype": "string", "role": "key"},
    {"name": "kind", "dtype": "string", "role": "label", "values": ["a", "b"]},
)
Row = tuple[float, str, str]


def good(first: int = 0, count: int = GOOD) -> list[Row]:
    return [(float(n), f"text {n}", "ab"[n % 2]) for n in range(first, first + count)]


def csv_line(row: Row) -> str:
    return f"{row[0]},{row[1]},{row[2]}"


def csv_text(lines: list[str]) -> str:
    return "\n".join(["n,t,kind", *lines]) + "\n"


def json_line(row: Row) -> str:
    return json.dumps(dict(zip(("n", "t", "kind"), row, strict=True)))


def columns_of(rows: list[Row]) -> dict[str, list[Any]]:
    return {name: [row[place] for row in rows] for place, name in enumerate(("n", "t", "kind"))}


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def with_lines(rows: list[Row], *bad: tuple[int, str]) -> list[str]:
    """Return the lines of rows with bad ones put in at these places, rising."""
    lines = [csv_line(row) for row in rows]
    for place, line in bad:
        lines.insert(place, line)
    return lines


def png_bomb(width: int = 40_000, height: int = 40_000) -> bytes:
    """Return a small PNG whose header says 1.6 gigapixels; what it holds decompresses to as many zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(9)
    line = b"\0" * (1 << 20)
    data = b"".join(squeeze.compress(line) for _ in range(200)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def gzip_bomb(start: str, zeros: int = 128 << 20) -> bytes:
    """Return gzip of a text and so many digits in one line: about a thousand bytes per byte."""
    sink = io.BytesIO()
    with gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(start.encode())
        for _ in range(zeros >> 20):
            file.write((b"0" * 1023 + b"\n") * 1024)
    return sink.getvalue()
