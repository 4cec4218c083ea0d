"""Base of the text formats without a header: divided at line ends, read in blocks of whole lines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import IO, TypeVar

import pyarrow as pa

from lightmill.datasets.sources.file_source import FileSource, Rows, pieces
from lightmill.datasets.sources.files import FileRef, Place
from lightmill.datasets.sources.port import BadRow, OnBad, Part, bad_text, consecutive
from lightmill.datasets.sources.problems import DamageError
from lightmill.datasets.sources.streams import (
    Ranged,
    Reader,
    Rewound,
    as_utf8,
    blocks,
    codec_of,
    decompressed,
    divide,
    is_utf8,
)
from lightmill.records.sources import TextFilesSpec

LinesT = TypeVar("LinesT", bound=TextFilesSpec)


class LineSource(FileSource[LinesT]):
    """Files of lines. `counting` says what a row is: "rows" (lines that are not empty) or "lines" (all)."""

    counting = "rows"

    def _divide(self, number: int, place: Place, file: FileRef) -> list[Part]:
        whole = self._whole(number, file)
        compressed = codec_of(file.path, self.spec.compression) is not None
        if compressed or place.scheme == "http" or file.size_bytes <= self.spec.part_bytes:
            return [whole]
        with place.open(file) as opened:
            head, mark = as_utf8(opened, self.spec.encoding)
            if not isinstance(head, Rewound) or not is_utf8(self.spec.encoding):
                return [whole]
            text = Ranged(opened, mark, None)
            found = divide(text, mark, self.spec.part_bytes, self.limits.cell_bytes, self.counting)
        return pieces(whole, found)

    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield a table per block of about 16 MiB."""
        place, file = self.place_of(part)
        with place.open(file) as opened:
            first, seen = part.first_row, False
            for block in blocks(self._text(opened, file, part), self.limits.cell_bytes):
                seen = True
                if block.too_long:
                    reason = f"the row has more bytes than limits.cell_bytes of {self.limits.cell_bytes}"
                    text = bad_text(block.data)
                    on_bad(BadRow(file=part.file, path=part.path, row=first, reason=reason, text=text))
                    first += 1
                    continue
                table, rows, count = self._block(block.data, first, part, on_bad)
                first += count
                yield table, rows
            if not seen and part.end is None:
                raise DamageError("the file is empty")

    def _text(self, opened: IO[bytes], file: FileRef, part: Part) -> Reader:
        if part.end is not None:
            return Ranged(opened, part.start, part.end)
        codec = codec_of(file.path, self.spec.compression)
        return as_utf8(decompressed(opened, codec, self.limits.expansion), self.spec.encoding)[0]

    @abstractmethod
    def _block(self, data: bytes, first: int, part: Part, on_bad: OnBad) -> tuple[pa.Table, Rows, int]:
        """Return the good rows of a block with their numbers, and how many rows it has; the others go to `on_bad`."""


def whole_lines(data: bytes, first: int) -> Rows:
    """Return the numbers of the lines of a block, empty ones included: int64 [lines]."""
    return consecutive(first, data.count(b"\n") + (bool(data) and not data.endswith(b"\n")))
