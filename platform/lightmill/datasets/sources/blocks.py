"""The blocks of a part as passes read them: `row_id` first, rows that cannot be read in their place.

Blocks of a part come in order; parts are read in any order, by any worker, and have the same row ids each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from lightmill.datasets.columns import ROW_ID
from lightmill.datasets.sources.port import BATCH_ROWS, ROW_BITS, BadRow, Part, Source
from lightmill.errors import RequestError

BAD = "bad_row"
"""The column that holds a rejected row's BadRow as JSON; null in a row that was read."""

TASK_BYTES = 32 << 20
"""How much of small parts one task reads."""


def check_names(source: Source) -> None:
    """Raise if a source has a column that blocks need for themselves.

    Raises:
        RequestError: It has.
    """
    if ROW_ID in source.schema().names or BAD in source.schema().names:
        raise RequestError(f"The source has a column {ROW_ID!r} or {BAD!r}, which are reserved; rename it.")


def task_groups(parts: Sequence[Part]) -> list[list[Part]]:
    """Return consecutive parts together, up to 32 MiB; a part of unknown size stands alone."""
    groups: list[list[Part]] = []
    size = 0
    for part in parts:
        if groups and part.size_bytes and size and size + part.size_bytes <= TASK_BYTES:
            groups[-1].append(part)
            size += part.size_bytes
        else:
            groups.append([part])
            size = part.size_bytes
    return groups


def read_blocks(source: Source, part: Part, batch_rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
    """Yield a part's blocks: `row_id` int64, the source's columns and `bad_row` string.

    A rejected row comes as a row with nulls in all columns but `row_id` and `bad_row`; the remainder of a part that
    cannot be read further is one such row.

    Raises:
        RequestError: See `Source.read`.
        UnavailableError: The place does not answer; a retry may succeed.
    """
    waiting: list[BadRow] = []
    schema = source.schema()
    empty = True
    for chunk in source.read(part, batch_rows=batch_rows, on_bad=waiting.append):
        table = chunk.table.add_column(0, ROW_ID, chunk.row_ids())
        table = table.append_column(BAD, pa.nulls(len(table), pa.string()))
        table = pa.concat_tables([table, _rejected(waiting, schema)]).sort_by(ROW_ID) if waiting else table
        waiting.clear()
        empty = False
        yield table
    if waiting or empty:
        yield _rejected(waiting, schema)


def _rejected(found: Sequence[BadRow], schema: pa.Schema) -> pa.Table:
    """Return bad rows as a block."""
    ids = pa.array([(bad.file << ROW_BITS) + bad.row for bad in found], type=pa.int64())
    nulls = [pa.nulls(len(found), field.type) for field in schema]
    said = pa.array([bad.model_dump_json() for bad in found], type=pa.string())
    fields = [pa.field(ROW_ID, pa.int64()), *schema, pa.field(BAD, pa.string())]
    return pa.Table.from_arrays([ids, *nulls, said], schema=pa.schema(fields))
