"""Our ingest with plain Parquet out, for comparison only: no setting of the product does this.

While `plain_output` is open, an ingest of this process gives its tasks a function that writes the same file without
encryption; nothing of Lightmill's reads what it writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from lightmill.datasets import ingest, sealed
from lightmill.datasets.parquet import Subkey, encodings


def write_plain(table: pa.Table, subkey: Subkey, tags: Mapping[str, str] | None = None) -> memoryview:
    """Return a table as a Parquet file that differs from an encrypted one in the encryption only."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **encodings(table))
    return memoryview(sink.getvalue())


@contextmanager
def plain_output() -> Iterator[None]:
    """Let ingests that this process starts write plain files."""
    module = cast(Any, ingest)
    module.SealTask = partial(sealed.SealTask, write=write_plain)
    try:
        yield
    finally:
        module.SealTask = sealed.SealTask
