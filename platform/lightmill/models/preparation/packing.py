"""Token ids of many rows packed into sequences of one length, so that training wastes nothing on padding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.columns import ROW_ID, column_of, one_array, row_ids
from lightmill.models.preparation.tokens import fixed_list
from lightmill.records.preparation import Pack


class Packer:
    """Packs a stream of tables; what does not fill a sequence waits for the next table.

    The sequences depend on the order of rows alone, not on the tables in which they come.
    """

    def __init__(self, step: Pack) -> None:
        self._step = step
        self._ids = np.empty(0, dtype=np.int32)
        self._rows = np.empty(0, dtype=np.int64)
        self._documents = np.empty(0, dtype=np.int64)
        self._seen = 0

    def add(self, table: pa.Table) -> pa.Table:
        """Take a table's rows and return the sequences that are full now: `row_id`, ids and segments.

        Raises:
            RequestError: The column of ids or `row_id` is missing, or the ids are no lists of any length.
        """
        values, lengths = self._lists(table)
        source = row_ids(table, "pack")
        if self._step.separator is not None:
            ends = np.cumsum(lengths)
            values = np.insert(values, ends, self._step.separator)
            lengths = lengths + 1
        self._ids = np.concatenate([self._ids, values])
        self._rows = np.concatenate([self._rows, np.repeat(source, lengths)])
        documents = self._seen + np.cumsum(lengths > 0) - 1  # a row without tokens takes no number
        self._documents = np.concatenate([self._documents, np.repeat(documents, lengths)])
        self._seen += int((lengths > 0).sum())
        return self._take(len(self._ids) // self._step.length)

    def finish(self) -> pa.Table:
        """Return the last sequence, padded, or no sequence where nothing is left or `remainder` is `drop`."""
        left = len(self._ids)
        if not left or self._step.remainder == "drop":
            self._ids, self._rows, self._documents = self._ids[:0], self._rows[:0], self._documents[:0]
            return self._take(0)
        more = self._step.length - left
        self._ids = np.pad(self._ids, (0, more), constant_values=self._step.pad_id)
        self._rows = np.pad(self._rows, (0, more))
        self._documents = np.pad(self._documents, (0, more), constant_values=-1)
        return self._take(1)

    def _lists(self, table: pa.Table) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        column = column_of(table, self._step.column, "pack")
        kind = column.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_integer(kind.value_type):
            raise RequestError(
                f"Step 'pack': column {self._step.column!r} has type {kind}, not lists of token ids of any length. "
                "Tokenize without `length` before packing."
            )
        lists = one_array(column)
        lengths = np.asarray(lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)).astype(np.int64)
        values = lists.flatten()
        if values.null_count:
            raise RequestError(f"Step 'pack': column {self._step.column!r} holds a NULL token id.")
        return values.cast(pa.int32()).to_numpy(zero_copy_only=False), lengths

    def _take(self, count: int) -> pa.Table:
        length, cut = self._step.length, count * self._step.length
        ids, rows, documents = (part[:cut].reshape(count, length) for part in (self._ids, self._rows, self._documents))
        self._ids, self._rows, self._documents = self._ids[cut:], self._rows[cut:], self._documents[cut:]
        segments = np.where(documents >= 0, documents - documents[:, :1] + 1, 0).astype(np.int32)
        return pa.table(
            {
                ROW_ID: pa.array(rows[:, 0].copy()),
                self._step.column: fixed_list(ids.astype(np.int32)),
                f"{self._step.column}_segments": fixed_list(segments),
            }
        )


def pack(table: pa.Table, step: Pack) -> pa.Table:
    """Return the sequences of one table, the last one padded or dropped; see `Packer` for errors."""
    packer = Packer(step)
    return pa.concat_tables([packer.add(table), packer.finish()])
