"""A worker's shard of the training split, as batches.

A shard that fits the memory budget streams in from Ray Data once and is kept; later epochs shuffle it with a
seed of their own. A larger one streams every epoch through Ray Data's shuffle buffer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import pyarrow as pa
import torch

from lightmill.training.objectives import Batch
from lightmill.training.rows import Rows

CACHE_BYTES = 1 << 30
READ_ROWS = 65_536
SHUFFLE_ROWS = 100_000


class Shard(Protocol):
    """What Ray Train gives a worker: an iterator over its part of a dataset."""

    def iter_batches(self, **options: object) -> Iterator[pa.Table]:
        """Yield batches as Arrow tables."""
        ...


class Batches:
    """Batches of one shard, on `device`, of `batch_size` rows or, if given, of as many rows as `sizes` says."""

    def __init__(
        self,
        shard: Shard,
        rows: Rows,
        batch_size: int,
        seed: int,
        device: torch.device,
        shard_bytes: int,
        sizes: tuple[int, ...] = (),
    ) -> None:
        self._shard = shard
        self._rows = rows
        self._batch_size = batch_size
        self._seed = seed
        self._device = device
        self._sizes = sizes
        self._tensors: Batch | None = None
        self._table: pa.Table | None = None
        self._keep = shard_bytes <= CACHE_BYTES

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of one epoch, in an order that seed and epoch alone decide."""
        seed = self._seed * 1_000_003 + number
        if not self._keep:
            yield from self._streamed(number, seed)
        elif self._rows.changing:
            yield from self._changing(number, seed)
        else:
            yield from self._kept(seed)

    def _kept(self, seed: int) -> Iterator[Batch]:
        if self._tensors is None:
            self._tensors = read_all(self._shard, self._rows, self._device)
        order = _order(len(self._tensors[0]), seed).to(self._device)
        shuffled = [tensor[order] for tensor in self._tensors]
        cut = list(self._sizes) or self._batch_size
        yield from zip(*(tensor.split(cut) for tensor in shuffled), strict=True)

    def _changing(self, number: int, seed: int) -> Iterator[Batch]:
        """Yield batches of rows that are prepared anew in each epoch; what is kept is the table."""
        table = self._whole_table()
        for place in _order(table.num_rows, seed).split(list(self._sizes) or self._batch_size):
            yield self._moved(self._rows.batch(table.take(pa.array(place.numpy())), epoch=number))

    def _whole_table(self) -> pa.Table:
        if self._table is None:
            tables: list[pa.Table] = list(self._shard.iter_batches(batch_size=READ_ROWS, batch_format="pyarrow"))
            self._table = pa.concat_tables(tables).combine_chunks()
        return self._table

    def _streamed(self, number: int, seed: int) -> Iterator[Batch]:
        found = self._shard.iter_batches(
            batch_size=self._batch_size,
            batch_format="pyarrow",
            local_shuffle_buffer_size=SHUFFLE_ROWS,
            local_shuffle_seed=seed,
        )
        for table in cut_tables(found, self._sizes) if self._sizes else found:
            yield self._moved(self._rows.batch(table, epoch=number))

    def _moved(self, batch: Batch) -> Batch:
        return tuple(tensor.to(self._device) for tensor in batch)


def read_all(shard: Shard, rows: Rows, device: torch.device) -> Batch:
    """Return a whole shard as tensors."""
    tables = shard.iter_batches(batch_size=READ_ROWS, batch_format="pyarrow")
    parts = [[tensor.to(device) for tensor in rows.batch(table)] for table in tables]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def step_sizes(rows: int, steps: int) -> tuple[int, ...]:
    """Return how many rows of a worker each step takes: all of them, as even as can be."""
    return tuple((step + 1) * rows // steps - step * rows // steps for step in range(steps))


def cut_tables(tables: Iterable[pa.Table], sizes: Iterable[int]) -> Iterator[pa.Table]:
    """Yield the rows of tables, in order, as tables of these sizes, which add up to the rows."""
    coming = iter(tables)
    waiting = next(coming)
    for size in sizes:
        while len(waiting) < size:
            waiting = pa.concat_tables([waiting, next(coming)])
        yield waiting.slice(0, size)
        waiting = waiting.slice(size)


def _order(rows: int, seed: int) -> torch.Tensor:
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
