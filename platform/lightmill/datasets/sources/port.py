"""What every source offers, and the small records that go between it and whoever reads it.

Rows have a place that never changes: the position of their file among all files (in name order) and their
number in it. `row_ids` makes one int64 of both, in source order; it depends neither on how files are divided
into parts nor on how many workers read them. Rows that cannot be read keep their number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.datasets.sources.problems import reading_errors
from lightmill.errors import RequestError
from lightmill.records.assets import RowOrigin, SourceFile
from lightmill.records.base import Record
from lightmill.records.sources import Limits

ROW_BITS: Final = 40
BATCH_ROWS: Final = 65_536
BAD_TEXT_MAX: Final = 64 << 10
BadKind = Literal["type", "unreadable"]
WHOLE_FILES: Final = (RowOrigin(first=0, source=0),)
"""File position n is entry n of what a source describes."""


class Part(Record):
    """A piece of a source that one worker reads.

    Attributes:
        file: Position of the file (key range, group of images) among all of them; the high bits of row ids.
        number: Position of the part among all parts.
        path: The file's name, for people.
        start: Where the part begins, in the format's own unit: bytes, row groups, record batches or keys.
        end: Where it ends, exclusive; None is the end of the file.
        first_row: The number in the file of the part's first row.
        rows: How many rows it has, where that is known before reading.
        size_bytes: About how many bytes it has, as stored.
        fingerprint: Changes when the file does: its digest, or its size and time of change.
        source: Position of the source among those that are combined.
    """

    file: int
    number: int
    path: str
    start: int = 0
    end: int | None = None
    first_row: int = 0
    rows: int | None = None
    size_bytes: int = 0
    fingerprint: str = ""
    source: int = 0


class BadRow(Record):
    """A row that could not be read, or with `rest`, that row and all after it in its part.

    Attributes:
        kind: `type` is a value that does not convert to its column's type; `unreadable` is all else.
        reason: What is wrong, without any value of the row.
        text: The row as it is in the file, as far as it can be shown and at most 64 KiB of it.
        column: The column at fault, where it is one.
    """

    file: int
    path: str
    row: int
    kind: BadKind = "unreadable"
    reason: str
    text: str = ""
    column: str | None = None
    rest: bool = False


OnBad = Callable[[BadRow], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some rows of a part, in order, with their numbers in the file: int64 [rows], rising."""

    part: Part
    table: pa.Table
    rows: npt.NDArray[np.int64]

    def row_ids(self) -> pa.Array:
        """Return int64 [rows]: the file's position in the high bits, the row's number in the low 40."""
        return row_ids(self.part.file, self.rows)


def row_ids(file: int, rows: npt.NDArray[np.int64]) -> pa.Array:
    """Return the row ids of rows of one file.

    Raises:
        RequestError: There are 2^23 files or more, or 2^40 rows in one.
    """
    if file >= 1 << (63 - ROW_BITS) or (len(rows) and int(rows[-1]) >= 1 << ROW_BITS):
        raise RequestError(f"File {file} or its rows are too many for row ids; make fewer, larger files.")
    return pa.array(rows + (file << ROW_BITS), type=pa.int64())


def refuse(bad: BadRow) -> None:
    """Take no bad row: the policy `fail`.

    Raises:
        RequestError: Always; the message names the file, the row and the column, and no value.
    """
    where = f"{bad.path}, row {bad.row}" + (f", column {bad.column!r}" if bad.column else "")
    rule = "type" if bad.kind == "type" else "unreadable"
    raise RequestError(f"{where}: {bad.reason}. Correct the file, or set rules.{rule} to quarantine or drop.")


class Source(ABC):
    """Rows from somewhere. Pickles: it holds a specification and places, never an open file or a secret."""

    limits: Limits

    @abstractmethod
    def parts(self) -> list[Part]:
        """Return the parts, always in the same order while the source does not change.

        Raises:
            NotFoundError: There is nothing at the path.
            RequestError: A file cannot be understood at all.
            UnavailableError: The place does not answer; a retry may succeed.
        """

    @abstractmethod
    def schema(self) -> pa.Schema:
        """Return the columns of every chunk; raises as `parts` does."""

    @abstractmethod
    def describe(self) -> tuple[SourceFile, ...]:
        """Return name, size and SHA-256 of everything that is read, for the lineage; raises as `parts` does."""

    def origins(self) -> tuple[RowOrigin, ...]:
        """Return which entries of `describe` rows come from, by file position, without reading anything again.

        By default, file position n is entry n.
        """
        return WHOLE_FILES

    def identity(self) -> str | None:
        """Return what changes when rows do, None where that cannot be told without reading all of them.

        By default it is of the parts, which hold the fingerprint of their files.
        """
        return "\n".join(part.model_dump_json() for part in self.parts())

    def entries(self) -> int:
        """Return how many entries `describe` has; by default one for each file that has a part."""
        return len({part.file for part in self.parts()})

    @abstractmethod
    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, npt.NDArray[np.int64]]]:
        """Yield rows with their numbers, for `read`; an error of Arrow or of the system ends the part."""

    def read(self, part: Part, *, batch_rows: int = BATCH_ROWS, on_bad: OnBad = refuse) -> Iterator[Chunk]:
        """Yield the part's rows in order, at most `batch_rows` at a time, in memory that the chunk bounds.

        Bad rows go to `on_bad`, which may raise. What cannot be read to its end is one BadRow with `rest`.

        Raises:
            RequestError: The file has changed since it was divided, or its columns are not the source's.
            UnavailableError: The place does not answer; a retry may succeed.
        """
        position = part.first_row

        def told(bad: BadRow) -> None:
            nonlocal position
            position = max(position, bad.row + 1)
            on_bad(bad)

        with reading_errors(part.path) as problem:
            for table, rows in self.tables(part, batch_rows, told):
                for start in range(0, len(rows), batch_rows):
                    piece = slice(start, start + batch_rows)
                    yield Chunk(part=part, table=table.slice(start, batch_rows), rows=rows[piece])
                position = max(position, int(rows[-1]) + 1) if len(rows) else position
        if problem:
            on_bad(BadRow(file=part.file, path=part.path, row=position, reason=problem[0], rest=True))


def bad_text(raw: bytes | str) -> str:
    """Return the row for people: at most 64 KiB, bytes that are no UTF-8 replaced."""
    text = raw[: 4 * BAD_TEXT_MAX].decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    return text.rstrip("\r\n")[:BAD_TEXT_MAX]


def consecutive(first: int, count: int) -> npt.NDArray[np.int64]:
    """Return int64 [count]: first, first + 1, ..."""
    return np.arange(first, first + count, dtype=np.int64)
