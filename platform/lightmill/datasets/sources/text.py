"""Plain text: a row per line, or a row per file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from lightmill.datasets.sources.file_source import Rows
from lightmill.datasets.sources.files import FileRef, Place
from lightmill.datasets.sources.line_source import LineSource, whole_lines
from lightmill.datasets.sources.port import BadRow, OnBad, Part, bad_text, consecutive
from lightmill.datasets.sources.problems import DamageError
from lightmill.datasets.sources.streams import read_head
from lightmill.records.sources import TextSpec

_LINE = pa.schema([("text", pa.string())])
_DOCUMENT = pa.schema([("text", pa.string()), ("path", pa.string())])


class TextSource(LineSource[TextSpec]):
    """Text files. A line loses its ending (LF or CR LF) and nothing else; an empty one is an empty string."""

    counting = "lines"

    def _file_schema(self, place: Place, file: FileRef) -> pa.Schema:
        return _LINE if self.spec.unit == "line" else _DOCUMENT

    def _divide(self, number: int, place: Place, file: FileRef) -> list[Part]:
        if self.spec.unit == "document":
            return [self._whole(number, file)]
        return super()._divide(number, place, file)

    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield a table per block of lines, or one row for a document."""
        if self.spec.unit == "line":
            yield from super().tables(part, batch_rows, on_bad)
            return
        place, file = self.place_of(part)
        with place.open(file) as opened:
            data = read_head(self._text(opened, file, part), self.limits.cell_bytes + 1)
        if len(data) > self.limits.cell_bytes:
            raise DamageError(f"the document has more bytes than limits.cell_bytes of {self.limits.cell_bytes}")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise DamageError("its bytes are no UTF-8; declare the encoding") from exc
        table = pa.table({"text": [text], "path": [part.path]}, schema=_DOCUMENT)
        yield self.conform(table, consecutive(0, 1), part, on_bad)

    def _block(self, data: bytes, first: int, part: Part, on_bad: OnBad) -> tuple[pa.Table, Rows, int]:
        rows = whole_lines(data, first)
        count = len(rows)
        texts = _lines(data, count)
        try:
            column = texts.cast(pa.string())
        except pa.ArrowInvalid:
            good = np.ones(count, dtype=bool)
            for at, line in enumerate(texts.to_pylist()):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError:
                    good[at] = False
                    reason = "its bytes are no UTF-8; declare the encoding"
                    text = bad_text(line)
                    on_bad(BadRow(file=part.file, path=part.path, row=first + at, reason=reason, text=text))
            column, rows = texts.filter(pa.array(good)).cast(pa.string()), rows[good]
        return *self.conform(pa.Table.from_arrays([column], schema=_LINE), rows, part, on_bad), count


def _lines(data: bytes, count: int) -> pa.Array:
    """Return the lines as one array of bytes, made of the block's own memory, without a loop."""
    if b"\r\n" in data:
        data = data.replace(b"\r\n", b"\n")
    ended = data if data.endswith(b"\n") else data + b"\n"
    codes = np.frombuffer(ended, dtype=np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))
    offsets = np.zeros(count + 1, dtype=np.int32)
    offsets[1:] = ends + 1 - np.arange(1, count + 1)
    kept = ended.replace(b"\n", b"")
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(kept)])
