"""Parquet files, divided at row groups and read in batches, so that a row group never has to fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from lightmill.datasets.sources.file_source import FileSource, Rows
from lightmill.datasets.sources.files import FileRef, Place
from lightmill.datasets.sources.port import OnBad, Part, consecutive
from lightmill.records.sources import ParquetSpec

_BUFFER_BYTES = 1 << 20


class ParquetSource(FileSource[ParquetSpec]):
    """Parquet files. Footers are read when the source is divided, rows when a part is read."""

    suffixes = (".parquet", ".pq")

    def _file_schema(self, place: Place, file: FileRef) -> pa.Schema:
        with place.open(file) as opened:
            return pq.ParquetFile(opened).schema_arrow

    def _divide(self, number: int, place: Place, file: FileRef) -> list[Part]:
        whole = self._whole(number, file)
        with place.open(file) as opened:
            metadata = pq.ParquetFile(opened).metadata
        groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
        found: list[Part] = []
        begin = first = rows = size = 0
        for at, group in enumerate(groups, start=1):
            rows += group.num_rows
            size += sum(group.column(c).total_compressed_size for c in range(group.num_columns))
            if size >= self.spec.part_bytes or at == len(groups):
                place_in_file = {"start": begin, "end": at, "first_row": first, "rows": rows, "size_bytes": size}
                found.append(whole.model_copy(update=place_in_file))
                begin, first, rows, size = at, first + rows, 0, 0
        return found or [whole.model_copy(update={"end": 0, "rows": 0})]

    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield a table per batch."""
        place, file = self.place_of(part)
        with place.open(file) as opened:
            reader = pq.ParquetFile(opened, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            names = self.columns and [name for name in self.columns if name in reader.schema_arrow.names]
            self.conform(reader.schema_arrow.remove_metadata().empty_table(), consecutive(0, 0), part, on_bad)
            groups = range(part.start, reader.num_row_groups if part.end is None else part.end)
            first = part.first_row
            for batch in reader.iter_batches(batch_size=batch_rows, row_groups=list(groups), columns=names or None):
                table = pa.Table.from_batches([batch])
                table.validate()
                rows = consecutive(first, len(table))
                first += len(table)
                yield self.conform(table, rows, part, on_bad)
