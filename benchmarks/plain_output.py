"""Our ingest with plain Parquet out, for comparison only: no setting of the product does this.

While `plain_output` is open, the driver's ingest takes a sink whose tasks replace the one function that writes an
encrypted file by one that writes the same table plain; what is written can be read by nothing of Lightmill's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from lightmill.datasets import ingest, sealed
from lightmill.datasets.parquet import Subkey
from lightmill.records.assets import FileEntry


class PlainSink(sealed.SealedSink):
    """Writes what a `SealedSink` writes, without encryption."""

    def write(self, blocks: Iterable[object], ctx: object) -> list[FileEntry]:
        """Prepare and write this task's blocks; runs in a Ray worker."""
        encrypted = sealed.write_encrypted
        sealed.write_encrypted = write_plain
        try:
            return super().write(blocks, ctx)
        finally:
            sealed.write_encrypted = encrypted


def write_plain(table: pa.Table, subkey: Subkey, tags: Mapping[str, str] | None = None) -> memoryview:
    """Return a table as a Parquet file that differs from an encrypted one in the encryption only."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return memoryview(sink.getvalue())


@contextmanager
def plain_output() -> Iterator[None]:
    """Let ingests that this process starts write plain files."""
    ingest.SealedSink = PlainSink
    try:
        yield
    finally:
        ingest.SealedSink = sealed.SealedSink
