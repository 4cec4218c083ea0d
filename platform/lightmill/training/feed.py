"""The batches of one worker: its lanes' rows of the sealed files, in the order of each epoch.

A share that fits the memory budget is decrypted once, and its tensors are kept; a larger one streams through Ray Data
in every epoch, see `stream`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch

from lightmill.datasets.reading import take_rows
from lightmill.registry import OpenVersion, RegistryLocation
from lightmill.training.lanes import Lanes, Positions
from lightmill.training.objectives import Batch
from lightmill.training.rows import Rows

CACHE_BYTES = 1 << 30
GATHER_ROWS = 16_384
READ_ROWS = 65_536


class Feed(Protocol):
    """What gives a worker its batches."""

    def epoch(self, number: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batch of every step of an epoch, from `first_step` on; a batch may have no rows."""
        ...

    def row_ids(self, epoch: int, step: int) -> list[int]:
        """Return the row ids of this worker's part of a step."""
        ...


class Origin:
    """Where rows come from: a split of a dataset version, and the positions of each lane's rows in it."""

    def __init__(
        self, version: OpenVersion, location: RegistryLocation, split: str, places: tuple[Positions, ...]
    ) -> None:
        self.version = version
        self.location = location
        self.split = split
        self.places = places

    def of(self, lanes: range) -> Positions:
        """Return the positions of some lanes, lane after lane."""
        some = [self.places[lane] for lane in lanes]
        return np.concatenate(some) if some else np.zeros(0, dtype=np.int64)

    def table(self, positions: Positions, columns: tuple[str, ...]) -> pa.Table:
        """Return the rows at some positions, in their order."""
        return take_rows(self.version, self.location, self.split, positions, columns)


class KeptFeed:
    """Holds the rows of a share in memory."""

    def __init__(self, origin: Origin, rows: Rows, lanes: Lanes, share: range, seed: int, device: torch.device) -> None:
        """Read the rows."""
        self._origin = origin
        self._rows = rows
        self._lanes = lanes
        self._share = share
        self._seed = seed
        self._device = device
        self._places = origin.of(share)
        table = origin.table(self._places, rows.columns)
        self._table = table.combine_chunks() if rows.changing else None
        self._tensors = None if rows.changing else whole_batch(table, rows, device)

    def epoch(self, number: int, first_step: int = 0) -> Iterator[Batch]:
        """See `Feed`."""
        order, starts = self._lanes.order(self._share, self._seed, number)
        if self._tensors is None:
            yield from self._prepared_anew(number, order, starts, first_step)
            return
        step = first_step
        while step < self._lanes.steps:
            end = step + 1
            while end < self._lanes.steps and starts[end + 1] - starts[step] <= GATHER_ROWS:
                end += 1
            some = torch.from_numpy(order[starts[step] : starts[end]]).to(self._device)
            sizes = np.diff(starts[step : end + 1]).tolist()
            gathered = [tensor[some].split(sizes) for tensor in self._tensors]
            yield from zip(*gathered, strict=True)
            step = end

    def _prepared_anew(self, number: int, order: Positions, starts: Positions, first_step: int) -> Iterator[Batch]:
        """Yield batches of rows that are prepared anew in each epoch; what is kept is the table."""
        if self._table is None:
            return
        for step in range(first_step, self._lanes.steps):
            part = self._table.take(pa.array(order[starts[step] : starts[step + 1]]))
            yield tuple(tensor.to(self._device) for tensor in self._rows.batch(part, epoch=number))

    def row_ids(self, epoch: int, step: int) -> list[int]:
        """See `Feed`."""
        order, starts = self._lanes.order(self._share, self._seed, epoch)
        places = self._places[order[starts[step] : starts[step + 1]]]
        return self._origin.table(places, ("row_id",)).column("row_id").to_pylist()


def whole_batch(table: pa.Table, rows: Rows, device: torch.device) -> Batch:
    """Return a table as tensors, prepared some rows at a time."""
    starts = range(0, max(1, len(table)), READ_ROWS)
    parts = [[tensor.to(device) for tensor in rows.batch(table.slice(start, READ_ROWS))] for start in starts]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))
