"""Bytes of text files: decompressed within a limit, as UTF-8 without a byte order mark, in blocks of whole rows."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Protocol

import numpy as np
import pyarrow as pa

from lightmill.datasets.sources.problems import DAMAGE, DamageError

BLOCK_BYTES = 16 << 20
_FREE_BYTES = 64 << 20
_STEP = 1 << 20
_OUT_STEP = 64 << 10
"""How much is decompressed at a time: what a truncated stream holds of its last step is lost."""
_SUFFIXES = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4", ".br": "brotli"}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Reader(Protocol):
    """Whatever gives at most `size` bytes, and none at its end."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Whole rows of UTF-8 text; `too_long` is instead the beginning of one row above the limit."""

    data: bytes
    too_long: bool = False


def codec_of(path: str, compression: str) -> str | None:
    """Return pyarrow's name of a file's compression, or None."""
    if compression == "auto":
        return next((name for suffix, name in _SUFFIXES.items() if path.lower().endswith(suffix)), None)
    return None if compression == "none" else compression


def decompressed(file: IO[bytes], codec: str | None, expansion: int) -> Reader:
    """Return the decompressed bytes of a file; a bomb is a DamageError."""
    return file if codec is None else _Bounded(file, codec, expansion)


class _Lent:
    """A file that stays open when pyarrow closes it."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        """Whoever opened the file closes it."""


class _Bounded:
    """Decompressed bytes, at most `expansion` for each compressed one that has been read (64 MiB are free)."""

    def __init__(self, file: IO[bytes], codec: str, expansion: int) -> None:
        self._file = file
        self._stream = pa.CompressedInputStream(pa.PythonFile(_Lent(file), mode="r"), codec)
        self._expansion = expansion
        self._out = 0

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(min(size, _OUT_STEP))
        self._out += len(data)
        if self._out > _FREE_BYTES + self._expansion * self._file.tell():
            raise DamageError(
                f"it decompresses to more than {self._expansion} times its size; if that is right, raise "
                "limits.expansion"
            )
        return data


class Ranged:
    """The bytes [start, end) of a file."""

    def __init__(self, file: IO[bytes], start: int, end: int | None) -> None:
        file.seek(start)
        self._file = file
        self._left = (1 << 62) if end is None else end - start

    def read(self, size: int, /) -> bytes:
        """Return the next bytes of the range."""
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data


class Rewound:
    """A reader with bytes put back in front of it."""

    def __init__(self, head: bytes, rest: Reader) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._rest.read(size)


class _Transcoded:
    """Text of another encoding as UTF-8; bytes that are none of it are a UnicodeError."""

    def __init__(self, source: Reader, encoding: str) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder(encoding)("strict")
        self._ended = False

    def read(self, size: int, /) -> bytes:
        while not self._ended:
            data = self._source.read(size)
            self._ended = not data
            try:
                text = self._decoder.decode(data, final=self._ended)
            except UnicodeDecodeError as exc:
                raise DamageError(f"it is not text in {exc.encoding}: {exc.reason}; correct encoding") from exc
            if text:
                return text.encode("utf-8")
        return b""


class _Whole:
    """Gives as many bytes as are asked for, fewer only at the end or before an error, which the next read raises."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._error: Exception | None = None

    def read(self, size: int, /) -> bytes:
        if self._error is not None:
            raise self._error
        pieces: list[bytes] = []
        have = 0
        try:
            while have < size and (more := self._source.read(size - have)):
                pieces.append(more)
                have += len(more)
        except DAMAGE as exc:
            if not pieces:
                raise
            self._error = exc
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)


def as_utf8(source: Reader, encoding: str) -> tuple[Reader, int]:
    """Return the text as UTF-8 without a byte order mark, and the mark's length in bytes.

    A UTF-8 or UTF-16 mark counts more than `encoding`. UTF-8 is passed on as it is, unchecked.
    """
    head = source.read(3)
    while head and len(head) < len(codecs.BOM_UTF8) and (more := source.read(len(codecs.BOM_UTF8) - len(head))):
        head += more
    if head.startswith(codecs.BOM_UTF8) and encoding.startswith("utf"):
        return Rewound(head[3:], source), 3
    if head.startswith(_UTF16) and encoding.startswith("utf"):
        return _Transcoded(Rewound(head, source), "utf-16"), 2
    rewound = Rewound(head, source)
    return (rewound, 0) if is_utf8(encoding) else (_Transcoded(rewound, encoding), 0)


def is_utf8(encoding: str) -> bool:
    """Return whether bytes of this encoding need no change to be UTF-8."""
    return codecs.lookup(encoding).name in ("utf-8", "ascii")


def blocks(source: Reader, limit: int, quote: str | None = None, size: int = BLOCK_BYTES) -> Iterator[Block]:
    """Yield blocks of about `size` bytes that end where a row does; memory is bounded by `size` and `limit`.

    Args:
        source: UTF-8 text.
        limit: The most bytes of one row; what is longer comes as one `too_long` block.
        quote: A line break within an even and an odd one of these is part of a cell.
        size: How many bytes to read at a time.
    """
    tail = b""
    source = _Whole(source)
    while data := source.read(size):
        data = tail + data if tail else data
        cut = _last_end(data, quote)
        if cut == 0 and len(data) > limit:
            yield Block(data=data[:_STEP], too_long=True)
            tail = _skip_row(source, size)
            continue
        tail = data[cut:]
        if cut:
            yield Block(data=data[:cut])
    if tail:
        yield Block(data=tail[:_STEP] if len(tail) > limit else tail, too_long=len(tail) > limit)


def _last_end(data: bytes, quote: str | None) -> int:
    """Return the position after the last line break that ends a row, or 0."""
    cut = data.rfind(b"\n") + 1
    if quote is None or cut == 0:
        return cut
    mark = quote.encode()
    inside = data.count(mark, 0, cut) % 2
    while cut and inside:
        before = data.rfind(b"\n", 0, cut - 1) + 1
        inside ^= data.count(mark, before, cut) % 2
        cut = before
    return cut


def _skip_row(source: Reader, size: int) -> bytes:
    """Read to the end of a row that is too long; return what follows."""
    while data := source.read(size):
        if (end := data.find(b"\n") + 1) > 0:
            return data[end:]
    return b""


def count_rows(data: bytes) -> int:
    """Return how many lines are not empty; lines end with LF, CR LF or CR."""
    if not data:
        return 0
    codes = np.frombuffer(data, dtype=np.uint8)
    if b"\r" not in data:
        ends = np.flatnonzero(codes == ord("\n"))
        empty = int(np.count_nonzero(np.diff(ends) == 1)) + data.startswith(b"\n")
        return len(ends) - empty + (not data.endswith(b"\n"))
    end = (codes == ord("\n")) | (codes == ord("\r"))
    return int(np.count_nonzero(~end[1:] & end[:-1])) + int(not end[0])


def is_plain_count(data: bytes, rows: int) -> bool:
    """Return whether a block has surely a row a line: no CR, and as many LF as rows. Cheaper than `count_rows`."""
    return data.count(b"\n") + (not data.endswith(b"\n")) == rows and b"\r" not in data


def count_lines(data: bytes) -> int:
    """Return how many lines there are, empty ones included; lines end with LF alone or CR LF."""
    return data.count(b"\n") + (bool(data) and not data.endswith(b"\n"))


def divide(source: Reader, start: int, target: int, limit: int, counting: str) -> list[tuple[int, int, int, int]]:
    """Return (start, end, first row, rows) of runs of whole lines, each of at least `target` bytes but the last.

    One pass over the bytes, in blocks; `counting` is "rows" (lines that are not empty) or "lines". A line of more
    than `limit` bytes counts as one.
    """
    count = count_rows if counting == "rows" else count_lines
    found: list[tuple[int, int, int, int]] = []
    begin = at = start
    first = rows = 0
    for length, data in _line_runs(source, max(1, min(target - 1, BLOCK_BYTES)), limit):
        at += length
        rows += count(data)
        if at - begin >= target:
            found.append((begin, at, first, rows))
            begin, first, rows = at, first + rows, 0
    if at > begin or not found:
        found.append((begin, at, first, rows))
    return found


def _line_runs(source: Reader, step: int, limit: int) -> Iterator[tuple[int, bytes]]:
    """Yield runs of whole lines with their length in bytes; a line above the limit comes as an `x`."""
    tail = b""
    source = _Whole(source)
    while data := source.read(step):
        data = tail + data if tail else data
        cut = data.rfind(b"\n") + 1
        if cut == 0 and len(data) > limit:
            length, tail = len(data), b""
            while more := source.read(step):
                end = more.find(b"\n") + 1
                length, tail = length + (end or len(more)), more[end:] if end else b""
                if end:
                    break
            yield length, b"x\n"
            continue
        tail = data[cut:]
        if cut:
            yield cut, data[:cut]
    if tail:
        yield len(tail), tail


def read_head(source: Reader, size: int) -> bytes:
    """Return the first bytes: `size` of them, fewer only at the end."""
    pieces, have = [], 0
    while have < size and (more := source.read(size - have)):
        pieces.append(more)
        have += len(more)
    return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)


def read_start(source: Reader, size: int) -> bytes:
    """Return the first bytes, at most `size`, as far as a damaged file has any."""
    return _Whole(source).read(size)
