"""The batches of a share that does not fit in memory: each lane streams through Ray Data, shuffled in windows.

In every epoch a lane's files come in another order, and rows are shuffled within windows of that sequence, of at most
`WINDOW_ROWS` rows and about `WINDOW_BYTES` bytes. Both follow from seed, epoch and lane, so that a run that goes on in
the middle of an epoch begins to read with the window of its first row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import torch

from lightmill.datasets.dealing import FilePart, parts_of, stream_parts
from lightmill.datasets.reading import read_file
from lightmill.training.feed import Origin
from lightmill.training.lanes import Lanes, shuffled
from lightmill.training.objectives import Batch
from lightmill.training.rows import Rows

WINDOW_ROWS, WINDOW_BYTES = 65_536, 64 << 20
_FILES, _ROWS = 1, 2


class StreamedFeed:
    """Reads the rows of a share anew in every epoch; it holds a window of each lane."""

    def __init__(self, origin: Origin, rows: Rows, lanes: Lanes, share: range, seed: int, device: torch.device) -> None:
        """Look up which files hold the lanes' rows; nothing is read yet."""
        self._origin = origin
        self._rows = rows
        self._lanes = lanes
        self._share = share
        self._seed = seed
        self._device = device
        self._parts = {lane: parts_of(origin.version, origin.split, origin.places[lane]) for lane in share}
        # The same for any number of workers: where a run goes on, its lanes must come in the same order.
        self._window = max(1, min(WINDOW_ROWS, WINDOW_BYTES // max(1, rows.row_bytes)))

    def epoch(self, number: int, first_step: int = 0) -> Iterator[Batch]:
        """See `Feed`."""
        for table in self._tables(number, first_step, self._rows.columns):
            yield tuple(tensor.to(self._device) for tensor in self._rows.batch(table, epoch=number))

    def row_ids(self, epoch: int, step: int) -> list[int]:
        """See `Feed`."""
        return next(self._tables(epoch, step, ("row_id",))).column("row_id").to_pylist()

    def _tables(self, epoch: int, first_step: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        lanes = [self._lane(lane, epoch, first_step, columns) for lane in self._share]
        for _ in range(first_step, self._lanes.steps):
            yield pa.concat_tables([next(lane) for lane in lanes])

    def _lane(self, lane: int, epoch: int, first_step: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the rows of every step of one lane."""
        cuts = self._lanes.cuts(lane)
        done = int(cuts[first_step])
        if done == cuts[-1]:
            entry = self._parts[lane][0].entry
            nothing = read_file(self._origin.location, self._origin.version.id, entry, columns).slice(0, 0)
            yield from [nothing] * (self._lanes.steps - first_step)
            return
        window = done // self._window
        waiting = pa.table({})
        skip = done - window * self._window
        coming = self._windows(lane, epoch, window, columns)
        for step in range(first_step, self._lanes.steps):
            size = int(cuts[step + 1] - cuts[step])
            while len(waiting) < size + skip or not waiting.num_columns:
                found = next(coming)
                waiting = pa.concat_tables([waiting, found]) if len(waiting) else found
            yield waiting.slice(skip, size)
            waiting = waiting.slice(skip + size)
            skip = 0

    def _windows(self, lane: int, epoch: int, first: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the shuffled windows of a lane from number `first` on."""
        parts = [self._parts[lane][n] for n in shuffled(len(self._parts[lane]), self._seed, epoch, lane, _FILES)]
        left = _without_first(parts, first * self._window)
        found = stream_parts(self._origin.version, self._origin.location, left, columns)
        tables = found.iter_batches(batch_size=self._window, batch_format="pyarrow", prefetch_batches=2)
        for number, table in enumerate(tables, first):
            yield table.take(pa.array(shuffled(len(table), self._seed, epoch, lane, _ROWS, number)))  # pyright: ignore[reportAttributeAccessIssue]


def _without_first(parts: list[FilePart], rows: int) -> list[FilePart]:
    """Return parts without their first rows."""
    found: list[FilePart] = []
    for part in parts:
        size = len(part.places)
        if rows < size:
            found.append(part if not rows else FilePart(entry=part.entry, places=part.places[rows:]))
        rows = max(0, rows - size)
    return found
