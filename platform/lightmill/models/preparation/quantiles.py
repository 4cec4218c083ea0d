"""Quantiles of a column from counts, exact for few different values and within 2^-11 of each value otherwise.

Up to 4,096 different values are counted each. Beyond, values are counted in buckets by the upper 22 bits of their
float64 form (sign, exponent, 10 bits of fraction): 1,024 buckets for each power of two, a histogram as HdrHistogram
has it (G. Tene, 2012). Which of the two it is depends on the set of values alone, and counts add up, so the result is
the same whatever the order and the size of blocks. 16 bytes a bucket in use: 16 KiB for each power of two between
the smallest and the largest magnitude.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.models.preparation.columns import present

EXACT_VALUES = 4096
_SHIFT = 42
_LOOK = 2 * EXACT_VALUES

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Histogram:
    """Counts of a column's values, which give any quantile."""

    def __init__(self) -> None:
        self.count = 0
        self._exact = True
        self._values = np.empty(0, dtype=np.float64)
        self._keys = np.empty(0, dtype=np.int64)
        self._counts = np.empty(0, dtype=np.int64)
        self._minimum = math.inf
        self._maximum = -math.inf

    def add(self, column: pa.ChunkedArray, name: str, step: str) -> None:
        """Take the values of a column that are not missing; infinities count as the largest magnitudes.

        Raises:
            RequestError: The column holds no numbers.
        """
        values = present(column, name, step, finite=False) + 0.0  # -0.0 becomes 0.0
        if not len(values):
            return
        merged = self + _of(values)
        self.__dict__.update(merged.__dict__)

    def __add__(self, other: Histogram) -> Histogram:
        both = Histogram()
        both.count = self.count + other.count
        both._minimum = min(self._minimum, other._minimum)
        both._maximum = max(self._maximum, other._maximum)
        if self._exact and other._exact:
            both._values, both._counts = _merge(self._values, self._counts, other._values, other._counts)
            if len(both._values) > EXACT_VALUES:
                both._coarsen()
            return both
        both._exact = False
        both._keys, both._counts = _merge(*self._buckets(), *other._buckets())
        return both

    def times(self, count: int) -> Histogram:
        """Return the counts of all values taken so many times."""
        both = Histogram() + self
        both.count, both._counts = both.count * count, both._counts * count
        return both

    def _coarsen(self) -> None:
        self._keys, self._counts = self._buckets()
        self._values, self._exact = np.empty(0, dtype=np.float64), False

    def _buckets(self) -> tuple[Ints, Ints]:
        if not self._exact:
            return self._keys, self._counts
        keys, inverse = np.unique(_keys(self._values), return_inverse=True)
        return keys, np.bincount(inverse, weights=self._counts, minlength=len(keys)).astype(np.int64)

    @property
    def exact(self) -> bool:
        """Whether quantiles are exact; if not, each is within 2^-11 of the value, relative to it."""
        return self._exact

    def quantile(self, share: float) -> float:
        """Return the quantile, interpolated linearly between its two neighbours in order, as NumPy does by default.

        There is at least one value; `share` is in 0 ... 1.
        """
        place = (self.count - 1) * share
        low = math.floor(place)
        values = self._values if self._exact else np.clip(_middles(self._keys), self._minimum, self._maximum)
        ends = np.cumsum(self._counts)
        below, above = (
            float(values[np.searchsorted(ends, rank, side="right")]) for rank in (low, min(low + 1, self.count - 1))
        )
        return below if below == above or place == low else below + (above - below) * (place - low)


def _of(values: Floats) -> Histogram:
    found = Histogram()
    found.count = len(values)
    found._minimum, found._maximum = float(values.min()), float(values.max())
    if len(np.unique(values[:_LOOK])) <= EXACT_VALUES:
        found._values, found._counts = np.unique(values, return_counts=True)
        if len(found._values) > EXACT_VALUES:
            found._coarsen()
        return found
    found._exact = False
    keys = _keys(values)
    lowest = int(keys.min())
    counts = np.bincount(keys - lowest)
    used = np.flatnonzero(counts)
    found._keys, found._counts = used + lowest, counts[used]
    return found


def _keys(values: Floats) -> Ints:
    """Return the bucket of each value, an integer that rises with the value."""
    bits = np.ascontiguousarray(values).view(np.int64)
    return (bits ^ ((bits >> 63) & np.int64(0x7FFF_FFFF_FFFF_FFFF))) >> _SHIFT


def _middles(keys: Ints) -> Floats:
    """Return the value in the middle of each bucket; 0 for the two around 0, and infinity for that of infinities."""
    bits = (keys << _SHIFT) + (1 << (_SHIFT - 1))
    bits = np.where(bits < 0, bits ^ np.int64(0x7FFF_FFFF_FFFF_FFFF), bits)
    middles = bits.view(np.float64).copy()
    middles[(keys == 0) | (keys == -1)] = 0.0
    infinite = int(_keys(np.array([np.inf]))[0])
    middles[keys == infinite] = np.inf
    middles[keys == -1 - infinite] = -np.inf
    return middles


def _merge(
    a: npt.NDArray[np.generic], a_counts: Ints, b: npt.NDArray[np.generic], b_counts: Ints
) -> tuple[npt.NDArray[np.generic], Ints]:
    """Add up counts of equal values; both inputs are sorted, and so is the result."""
    values, inverse = np.unique(np.concatenate([a, b]), return_inverse=True)
    counts = np.zeros(len(values), dtype=np.int64)
    np.add.at(counts, inverse, np.concatenate([a_counts, b_counts]))
    return values, counts
