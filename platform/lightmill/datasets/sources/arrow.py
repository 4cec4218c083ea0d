"""Arrow IPC files and streams, Feather included, read a record batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import pyarrow as pa
from pyarrow import ipc

from lightmill.datasets.sources.file_source import FileSource, Rows
from lightmill.datasets.sources.files import FileRef, Place
from lightmill.datasets.sources.port import OnBad, Part, consecutive
from lightmill.records.sources import ArrowSpec, FilesSpec

_FILE_MAGIC = b"ARROW1"


class ArrowFiles(FileSource[FilesSpec]):
    """Arrow IPC files (random access) or streams; which of them, their first bytes say.

    Every batch is validated whole before it is given on: its bytes come from outside, and a wrong offset in them
    would otherwise be read as an address.
    """

    def _file_schema(self, place: Place, file: FileRef) -> pa.Schema:
        with place.open(file) as opened:
            return _opened(opened).schema

    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield a table per record batch."""
        place, file = self.place_of(part)
        with place.open(file) as opened:
            first = part.first_row
            for batch in _batches(_opened(opened)):
                batch.validate(full=True)
                table = pa.Table.from_batches([batch]).replace_schema_metadata(None)
                rows = consecutive(first, len(table))
                first += len(table)
                names = self.columns and [name for name in self.columns if name in table.column_names]
                yield self.conform(table.select(names) if names else table, rows, part, on_bad)


class ArrowSource(ArrowFiles):
    """Arrow files named by an `arrow` specification."""

    spec: ArrowSpec  # pyright: ignore[reportIncompatibleVariableOverride] - narrower, and never assigned again
    suffixes = (".arrow", ".feather", ".ipc", ".arrows")


def _opened(file: IO[bytes]) -> ipc.RecordBatchFileReader | ipc.RecordBatchStreamReader:
    magic = file.read(len(_FILE_MAGIC))
    file.seek(0)
    return ipc.open_file(file) if magic == _FILE_MAGIC else ipc.open_stream(file)


def _batches(reader: ipc.RecordBatchFileReader | ipc.RecordBatchStreamReader) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, ipc.RecordBatchFileReader):
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
    else:
        yield from reader
