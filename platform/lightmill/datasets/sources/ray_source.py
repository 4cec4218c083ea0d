"""Any source through Ray Data: a read task per part, blocks with `row_id` first. The one module here that knows Ray.

Blocks of a part come in order; parts are read in any order, by any worker, and have the same row ids each time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Literal

import pyarrow as pa
from ray.data import Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from lightmill.datasets.columns import ROW_ID
from lightmill.datasets.sources.port import BATCH_ROWS, ROW_BITS, BadRow, Part, Source, refuse
from lightmill.errors import RequestError

BAD = "bad_row"
"""The column that holds a rejected row's BadRow as JSON; null in a row that was read."""

Policy = Literal["fail", "drop", "quarantine"]
TASK_BYTES = 32 << 20
"""How much of small parts one task reads."""


class RaySource(Datasource):
    """The parts of a source as read tasks.

    With `quarantine`, a rejected row comes as a row with nulls in all columns but `row_id` and `bad_row`; the
    remainder of a part that cannot be read further is one such row. With `drop` it is left out, with `fail` the
    first one ends the read.
    """

    def __init__(
        self,
        source: Source,
        parts: Sequence[Part] | None = None,
        *,
        bad_rows: Policy = "fail",
        batch_rows: int = BATCH_ROWS,
    ) -> None:
        super().__init__()
        if ROW_ID in source.schema().names or BAD in source.schema().names:
            raise RequestError(f"The source has a column {ROW_ID!r} or {BAD!r}, which are reserved; rename it.")
        self._source = source
        self._parts = tuple(source.parts() if parts is None else parts)
        self._bad_rows: Policy = bad_rows
        self._batch_rows = batch_rows

    def get_name(self) -> str:
        """Return the name that Ray shows."""
        return type(self._source).__name__

    def estimate_inmemory_data_size(self) -> int | None:
        """Return the stored size in bytes."""
        return sum(part.size_bytes for part in self._parts)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """Return one task a part, or for consecutive small ones that are known to be small."""
        return [self._task(group, per_task_row_limit) for group in task_groups(self._parts)]

    def _task(self, parts: Sequence[Part], limit: int | None) -> ReadTask:
        read = functools.partial(_read_all, self._source, tuple(parts), self._bad_rows, self._batch_rows)
        size = sum(part.size_bytes for part in parts)
        metadata = BlockMetadata(num_rows=None, size_bytes=size or None, exec_stats=None, input_files=None)
        return ReadTask(read, metadata, per_task_row_limit=limit)


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


def _read_all(source: Source, parts: Sequence[Part], policy: Policy, batch_rows: int) -> Iterator[pa.Table]:
    for part in parts:
        yield from read_blocks(source, part, policy, batch_rows)


def read_blocks(source: Source, part: Part, policy: Policy, batch_rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
    """Yield a part's blocks: `row_id` int64, the source's columns and, for `quarantine`, `bad_row` string.

    Raises:
        RequestError: The policy is `fail` and a row cannot be read; or see `Source.read`.
        UnavailableError: The place does not answer; a retry may succeed.
    """
    waiting: list[BadRow] = []
    on_bad = {"fail": refuse, "drop": lambda _: None, "quarantine": waiting.append}[policy]
    schema = source.schema()
    empty = True
    for chunk in source.read(part, batch_rows=batch_rows, on_bad=on_bad):
        table = chunk.table.add_column(0, ROW_ID, chunk.row_ids())
        if policy == "quarantine":
            table = table.append_column(BAD, pa.nulls(len(table), pa.string()))
            table = pa.concat_tables([table, _rejected(waiting, schema)]).sort_by(ROW_ID) if waiting else table
            waiting.clear()
        empty = False
        yield table
    if waiting or empty:
        rest = _rejected(waiting, schema)
        yield rest if policy == "quarantine" else rest.drop_columns([BAD])


def _rejected(found: Sequence[BadRow], schema: pa.Schema) -> pa.Table:
    """Return bad rows as a block."""
    ids = pa.array([(bad.file << ROW_BITS) + bad.row for bad in found], type=pa.int64())
    nulls = [pa.nulls(len(found), field.type) for field in schema]
    said = pa.array([bad.model_dump_json() for bad in found], type=pa.string())
    fields = [pa.field(ROW_ID, pa.int64()), *schema, pa.field(BAD, pa.string())]
    return pa.Table.from_arrays([ids, *nulls, said], schema=pa.schema(fields))
