"""CSV files. Clean blocks go through pyarrow's reader; a block with a bad row is read once more, as text.

A row's number counts the lines that are not empty, after the header. A block whose rows are not as many as its
lines holds line breaks inside quotes: that needs `quoted_newlines`, and is refused without.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from pyarrow import csv as arrow_csv

from lightmill.datasets.sources.conversion import check_columns, infinities, parse_texts
from lightmill.datasets.sources.file_source import FileSource, Rows, pieces, type_breach
from lightmill.datasets.sources.files import FileRef, Place
from lightmill.datasets.sources.port import BadRow, OnBad, Part, bad_text, consecutive
from lightmill.datasets.sources.problems import DamageError
from lightmill.datasets.sources.streams import (
    Block,
    Ranged,
    Reader,
    Rewound,
    as_utf8,
    blocks,
    codec_of,
    count_rows,
    decompressed,
    divide,
    is_plain_count,
    is_utf8,
    read_start,
)
from lightmill.errors import RequestError
from lightmill.records.sources import CsvSpec

pc: Any = pyarrow.compute  # its functions are made at import, where no type checker sees them

_SURROGATES = re.compile("[\udc80-\udcff]+")
_PARSE_BYTES = 1 << 20
_HEADER_BYTES = 4 << 20


class CsvSource(FileSource[CsvSpec]):
    """Delimited text files."""

    suffixes = (".csv", ".tsv", ".csv.gz", ".csv.zst", ".csv.bz2", ".csv.lz4", ".tsv.gz")

    def _file_schema(self, place: Place, file: FileRef) -> pa.Schema:
        with place.open(file) as opened:
            names, _ = self._header(self._text(opened, file), file.path)
        types = self.columns or {}
        return pa.schema([(name, types.get(name, pa.string())) for name in names])

    def _divide(self, number: int, place: Place, file: FileRef) -> list[Part]:
        whole = self._whole(number, file)
        undivided = self.spec.quoted_newlines or codec_of(file.path, self.spec.compression) is not None
        if undivided or place.scheme == "http" or file.size_bytes <= self.spec.part_bytes:
            return [whole]
        with place.open(file) as opened:
            head, mark = as_utf8(opened, self.spec.encoding)
            if not isinstance(head, Rewound) or not is_utf8(self.spec.encoding):
                return [whole]
            start = mark + self._header(head, file.path)[1]
            found = divide(Ranged(opened, start, None), start, self.spec.part_bytes, self.limits.cell_bytes, "rows")
        return pieces(whole, found)

    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield a table per block of about 16 MiB."""
        place, file = self.place_of(part)
        with place.open(file) as opened:
            text = self._text(opened, file)
            names, length = self._header(text, part.path)
            self.declared(pa.schema([(name, pa.string()) for name in names]), part.path)
            text = Ranged(opened, part.start, part.end) if part.end is not None else self._after(opened, file, length)
            first = part.first_row
            for block in blocks(text, self.limits.cell_bytes, self.spec.quote if self.spec.quoted_newlines else None):
                table, rows, count = self._block(block, names, first, part, on_bad)
                first += count
                yield self.conform(table, rows, part, on_bad)
            if part.rows is not None and first != part.first_row + part.rows:
                raise DamageError("its rows are not as many as were counted; run the job again")

    def _text(self, opened: IO[bytes], file: FileRef) -> Reader:
        opened.seek(0)
        codec = codec_of(file.path, self.spec.compression)
        return as_utf8(decompressed(opened, codec, self.limits.expansion), self.spec.encoding)[0]

    def _after(self, opened: IO[bytes], file: FileRef, length: int) -> Reader:
        """Return the text after the header."""
        text = self._text(opened, file)
        while length:
            length -= len(text.read(length))
        return text

    def _header(self, text: Reader, path: str) -> tuple[list[str], int]:
        """Return the column names, and how many bytes of the text they take.

        Raises:
            DamageError: The file is empty, or its header is no UTF-8.
            RequestError: A name comes twice, or there are too many.
        """
        if self.spec.header is not None:
            names = list(self.spec.header)
            check_columns(names, self.limits.columns, path)
            return names, 0
        head = read_start(text, _HEADER_BYTES)
        if not head.strip():
            raise DamageError("the file is empty; it has not even a header")
        end = head.rfind(b"\n") + 1 or len(head)
        try:
            lines = io.StringIO(head[:end].decode("utf-8", "surrogateescape"), newline="")
            names, taken = self._first_record(lines)
        except csv.Error as exc:
            raise DamageError(f"its header cannot be read: {exc}") from exc
        if any(_SURROGATES.search(name) for name in names):
            raise DamageError("its header is no UTF-8; declare the encoding")
        if any("\0" in name for name in names):
            raise DamageError("its header holds NUL bytes, as UTF-16 does; declare the encoding")
        check_columns(names, self.limits.columns, path)
        return names, taken

    def _first_record(self, lines: io.StringIO) -> tuple[list[str], int]:
        taken: list[str] = []

        def keep() -> Iterator[str]:
            for line in lines:
                taken.append(line)
                yield line

        quoting = csv.QUOTE_NONE if self.spec.quote is None else csv.QUOTE_MINIMAL
        reader = csv.reader(keep(), delimiter=self.spec.delimiter, quotechar=self.spec.quote, quoting=quoting)
        names = next((record for record in reader if record), [])
        return names, len("".join(taken).encode("utf-8", "surrogateescape"))

    def _block(
        self, block: Block, names: list[str], first: int, part: Part, on_bad: OnBad
    ) -> tuple[pa.Table, Rows, int]:
        """Return the good rows of a block with their numbers, and how many rows it has."""
        if block.too_long:
            reason = f"the row has more bytes than limits.cell_bytes of {self.limits.cell_bytes}"
            on_bad(BadRow(file=part.file, path=part.path, row=first, reason=reason, text=bad_text(block.data)))
            return self.schema().empty_table(), consecutive(first, 0), 1
        if self.spec.quoted_newlines and self.spec.quote and block.data.count(self.spec.quote.encode()) % 2:
            raise DamageError("a quote that opens a cell is never closed")
        table = self._parse(block.data, names, self._types(names))
        if table is None or any(infinities(column) for column in table.columns):
            return self._mend(block.data, names, first, part, on_bad)
        self._check_count(block.data, len(table))
        return table, consecutive(first, len(table)), len(table)

    def _types(self, names: list[str]) -> dict[str, pa.DataType]:
        return self.columns if self.columns is not None else dict.fromkeys(names, pa.string())

    def _parse(self, data: bytes, names: list[str], types: Mapping[str, pa.DataType]) -> pa.Table | None:
        """Return the rows, or None when one of them is bad; a row may be larger than what is parsed at a time."""
        for size in (_PARSE_BYTES, len(data) + 1):
            try:
                return self._parse_by(size, data, names, types)
            except pa.ArrowInvalid as exc:
                if "straddling" not in str(exc):
                    return None
        return None

    def _parse_by(self, size: int, data: bytes, names: list[str], types: Mapping[str, pa.DataType]) -> pa.Table:
        return arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(column_names=names, block_size=size),
            parse_options=self._parse_options(),
            convert_options=arrow_csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                null_values=list(self.spec.null_values),
                strings_can_be_null=True,
            ),
        )

    def _parse_options(self, skip: object = None) -> arrow_csv.ParseOptions:
        return arrow_csv.ParseOptions(
            delimiter=self.spec.delimiter,
            quote_char=self.spec.quote or False,
            newlines_in_values=self.spec.quoted_newlines,
            invalid_row_handler=skip,
        )

    def _check_count(self, data: bytes, rows: int) -> None:
        """Check that a block has a row a line, and that no quote is open at its end.

        A quote that opens and closes on two lines makes fewer rows than lines; one that is still open at the end
        of the block does not.

        Raises:
            DamageError: A cell goes on over a line break.
        """
        if self.spec.quoted_newlines:
            return
        if (not is_plain_count(data, rows) and rows != count_rows(data)) or self._is_open(data):
            raise DamageError("cells hold line breaks inside quotes; set quoted_newlines: true")

    def _is_open(self, data: bytes) -> bool:
        """Return whether the last line that is not empty opens a quote and does not close it."""
        end = data.rstrip(b"\r\n")
        line = end[max(end.rfind(b"\n"), end.rfind(b"\r")) + 1 :]
        if self.spec.quote is None or line.count(self.spec.quote.encode()) % 2 == 0:
            return False
        text = line.decode("utf-8", "replace")
        try:
            list(csv.reader([text], delimiter=self.spec.delimiter, quotechar=self.spec.quote, strict=True))
        except csv.Error as exc:
            return "end of data" in str(exc) or "limit" in str(exc)
        return False

    def _mend(self, data: bytes, names: list[str], first: int, part: Part, on_bad: OnBad) -> tuple[pa.Table, Rows, int]:
        """Return the good rows of a block that has bad ones; the latter go to `on_bad` in order."""
        text, mark = _marked(data)
        ragged: list[arrow_csv.InvalidRow] = []

        def skip(row: arrow_csv.InvalidRow) -> str:
            ragged.append(row)
            return "skip"

        raw = self._read_texts(text, names, skip)
        count = len(raw) + len(ragged)
        self._check_count(text, count)
        lost = np.array([row.number - 1 for row in ragged], dtype=np.int64)
        rows = np.delete(consecutive(0, count), lost) + first
        found = [self._ragged(row, first, mark, part) for row in ragged]
        table, rows, more = self._typed(raw, rows, mark, part)
        for bad in sorted([*found, *more], key=lambda bad: bad.row):
            on_bad(bad)
        return table, rows, count

    def _read_texts(self, text: bytes, names: list[str], skip: object) -> pa.Table:
        """Return every cell as it is; ragged rows go to `skip`, in order."""
        return arrow_csv.read_csv(
            pa.BufferReader(text),
            read_options=arrow_csv.ReadOptions(column_names=names, block_size=len(text) + 1, use_threads=False),
            parse_options=self._parse_options(skip),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), null_values=[], strings_can_be_null=False
            ),
        )

    def _ragged(self, row: arrow_csv.InvalidRow, first: int, mark: str, part: Part) -> BadRow:
        reason = f"it has {row.actual_columns} cells, the header has {row.expected_columns}"
        return BadRow(
            file=part.file,
            path=part.path,
            row=first + row.number - 1,
            reason=reason,
            text=bad_text(row.text.replace(mark, "\ufffd")),
        )

    def _typed(self, raw: pa.Table, rows: Rows, mark: str, part: Part) -> tuple[pa.Table, Rows, list[BadRow]]:
        """Return the columns with their types, without the rows whose bytes or values are wrong."""
        schema = pa.schema(list(self._types(raw.column_names).items()))
        nulls = pa.array(self.spec.null_values, type=pa.string())
        bad = np.zeros(len(rows), dtype=bool)
        found: list[BadRow] = []
        columns: list[pa.Array] = []
        for field in schema:
            texts = raw.column(field.name).combine_chunks()
            texts = pa.concat_arrays(texts.chunks) if isinstance(texts, pa.ChunkedArray) else texts
            damaged = np.asarray(pc.match_substring(texts, mark).to_numpy(zero_copy_only=False), dtype=bool)
            texts = pc.if_else(pc.or_(pc.is_in(texts, value_set=nulls), pa.array(damaged)), None, texts)
            values, wrong = parse_texts(texts, field.type)
            for row in np.flatnonzero((damaged | wrong) & ~bad):
                found.append(self._bad_cell(raw, int(row), int(rows[row]), field, bool(damaged[row]), mark, part))
            bad |= damaged | wrong
            columns.append(values)
        table = pa.Table.from_arrays(columns, schema=schema)
        return table.filter(pa.array(~bad)), rows[~bad], found

    def _bad_cell(
        self, raw: pa.Table, at: int, row: int, field: pa.Field, damaged: bool, mark: str, part: Part
    ) -> BadRow:
        out = io.StringIO()
        cells = [column[at].as_py().replace(mark, "\ufffd") for column in raw.columns]
        csv.writer(out, delimiter=self.spec.delimiter, quotechar=self.spec.quote or '"').writerow(cells)
        text = bad_text(out.getvalue())
        if not damaged:
            return type_breach(part, row, field, text)
        reason = f"its bytes are no {self.spec.encoding}; declare the encoding"
        return BadRow(file=part.file, path=part.path, row=row, reason=reason, text=text, column=field.name)


def _marked(data: bytes) -> tuple[bytes, str]:
    """Return a block as valid UTF-8, and the mark that stands where it was not: a character that it does not hold."""
    text = data.decode("utf-8", "surrogateescape")
    mark = next((chr(code) for code in range(0xFDD0, 0xFDF0) if chr(code) not in text), None)
    if mark is None:
        raise RequestError("A block of the file holds every noncharacter of Unicode; it is no text.")
    return _SURROGATES.sub(mark, text).encode("utf-8"), mark
