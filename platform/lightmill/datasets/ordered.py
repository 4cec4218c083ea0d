"""How many rows have which value, in the order of the values, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

POINTS_MAX = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """Distinct values, rising, and the rows of each; parts add up.

    Up to 2^20 distinct values are exact. Of more, every second goes and its rows count for the next one, so that a
    place in the order is known to a few millionths of the rows. 16 MiB at most.
    """

    values: npt.NDArray[Any]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> Ordered:
        """Return the values of a block."""
        found, counts = np.unique(values, return_counts=True)
        return cls(values=found, counts=counts.astype(np.int64))

    def __add__(self, other: Ordered) -> Ordered:
        values, place = np.unique(np.concatenate([self.values, other.values]), return_inverse=True)
        counts = np.zeros(len(values), dtype=np.int64)
        np.add.at(counts, place, np.concatenate([self.counts, other.counts]))
        both = Ordered(values=values, counts=counts)
        return both._thinned() if len(values) > POINTS_MAX else both

    def _thinned(self) -> Ordered:
        ends = np.cumsum(self.counts)
        kept = np.append(np.arange(0, len(self.values) - 1, 2), len(self.values) - 1)
        return Ordered(values=self.values[kept], counts=np.diff(ends[kept], prepend=0))

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return int(self.counts.sum())

    def after(self, rows: int) -> Any:
        """Return the value of the row that has so many rows before it, None if there is no such row."""
        place = int(np.searchsorted(np.cumsum(self.counts), rows, side="right"))
        return None if place >= len(self.values) else self.values[place].item()
