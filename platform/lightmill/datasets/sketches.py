"""Mergeable statistics in bounded memory. Each `of` takes a block, `+` joins two, and the order does not matter.

Sums of floats agree up to rounding whatever the order of blocks; everything else agrees exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

from lightmill.datasets.digests import distinct_words, mix64

pc: Any = compute  # pyarrow makes these functions at import; type checkers do not see them

Floats = npt.NDArray[np.float64]
HLL_BITS = 12
VALUES_MAX = 1000
TEXT_MAX = 200
_SLICE_ROWS = 1 << 14
_TILE_ROWS = 1 << 13


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Number, range, mean and squared deviations of the finite values.

    Adding follows T. F. Chan, G. H. Golub and R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances", 1979.
    """

    count: int = 0
    infinite: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf
    mean: float = 0.0
    deviations: float = 0.0

    @classmethod
    def of(cls, values: Floats) -> Numbers:
        """Return the statistics of values float64 [rows]; NaN is left out."""
        finite = values[np.isfinite(values)]
        infinite = int(np.isinf(values).sum())
        if not len(finite):
            return cls(infinite=infinite)
        # The sum of huge values may be infinite where their mean is not.
        with np.errstate(over="ignore"):
            mean = float(finite.mean())
            if not math.isfinite(mean):
                mean = float((finite / len(finite)).sum())
            deviations = float(np.square(finite - mean).sum())
        low, high = float(finite.min()), float(finite.max())
        return cls(count=len(finite), infinite=infinite, minimum=low, maximum=high, mean=mean, deviations=deviations)

    def __add__(self, other: Numbers) -> Numbers:
        if not (self.count and other.count):
            some = self if self.count else other
            return replace(some, infinite=self.infinite + other.infinite)
        count = self.count + other.count
        apart = other.mean - self.mean
        weight = other.count / count
        return Numbers(
            count=count,
            infinite=self.infinite + other.infinite,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            mean=self.mean * (1 - weight) + other.mean * weight,
            deviations=self.deviations + other.deviations + apart * apart * self.count * weight,
        )

    @property
    def std(self) -> float:
        """Return the standard deviation of the population, 0 for no values."""
        return math.sqrt(self.deviations / self.count) if self.count else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Distinct:
    """An estimate of the number of distinct values, with a standard error of 1.6 %, in 4 KiB: HyperLogLog.

    P. Flajolet et al., "HyperLogLog: the analysis of a near-optimal cardinality estimation algorithm", 2007; the
    estimator, without bias over the whole range, is O. Ertl's of "New cardinality estimation algorithms for HyperLogLog
    sketches", 2017.
    """

    registers: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, values: pa.Array) -> Distinct:
        """Return the sketch of a column; null is no value."""
        registers = np.zeros(1 << HLL_BITS, dtype=np.uint8)
        values_words = distinct_words(values)
        for first in range(0, len(values_words), _TILE_ROWS):
            words = mix64(values_words[first : first + _TILE_ROWS])
            rest = words & np.uint64((1 << (64 - HLL_BITS)) - 1)
            # A number below 2^52 is exact as a float, whose exponent is the position of the highest bit.
            rank = (64 - HLL_BITS + 1 - np.frexp(rest.astype(np.float64))[1]).astype(np.uint8)
            np.maximum.at(registers, (words >> np.uint64(64 - HLL_BITS)).view(np.int64), rank)
        return cls(registers=registers)

    def __add__(self, other: Distinct) -> Distinct:
        return Distinct(registers=np.maximum(self.registers, other.registers))

    def estimate(self) -> int:
        """Return the estimated number of distinct values."""
        size = len(self.registers)
        last = 64 - HLL_BITS + 1
        counts = np.bincount(self.registers, minlength=last + 1).astype(float)
        total = size * _tau(1 - counts[last] / size)
        for rank in range(last - 1, 0, -1):
            total = 0.5 * (total + counts[rank])
        total += size * _sigma(counts[0] / size)
        return round(size * size / (2 * math.log(2) * total)) if math.isfinite(total) else 0


def _sigma(x: float) -> float:
    if x == 1.0:
        return math.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x, before = x * x, z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y, z, before = 1.0, 1.0 - x, -1.0
    while z != before:
        x, before = math.sqrt(x), z
        y *= 0.5
        z -= (1.0 - x) ** 2 * y
    return z / 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Exact counts of values as text while there are at most `VALUES_MAX` and none is longer than `TEXT_MAX`.

    Beyond that `counts` is None and stays so, whatever the order of blocks.
    """

    counts: dict[str, int] | None

    @classmethod
    def of(cls, values: pa.Array) -> Counts:
        """Return the counts of a column; null is no value."""
        found = values.value_counts().flatten() if len(values) else []
        if not found or len(found[0]) > VALUES_MAX + 1:
            return cls(counts=None if found else {})
        texts = found[0].cast(pa.string()).to_pylist()
        pairs = {text: count for text, count in zip(texts, found[1].to_pylist(), strict=True) if text is not None}
        return cls(counts=_bounded(pairs))

    def __add__(self, other: Counts) -> Counts:
        if self.counts is None or other.counts is None:
            return Counts(counts=None)
        joined = dict(self.counts)
        for text, count in other.counts.items():
            joined[text] = joined.get(text, 0) + count
        return Counts(counts=_bounded(joined))


def _bounded(counts: dict[str, int]) -> dict[str, int] | None:
    return None if len(counts) > VALUES_MAX or any(len(text) > TEXT_MAX for text in counts) else counts


def most_frequent(counts: dict[str, int], most: int) -> list[tuple[str, int]]:
    """Return the `most` most frequent values, ties in the order of their text."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most]


def smallest_rows(row_id: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """Return the positions of the rows that a `Sample` of `limit` rows would keep of a block."""
    return _smallest(_hashes(row_id), limit)


def _hashes(row_id: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    return mix64(row_id.astype(np.int64).view(np.uint64))


def _smallest(hashes: npt.NDArray[np.uint64], limit: int) -> npt.NDArray[np.int64]:
    some = np.argpartition(hashes, limit)[:limit] if len(hashes) > limit else np.arange(len(hashes))
    return some[np.argsort(hashes[some])].astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The rows with the smallest hashes of their ids: a fair sample that depends on the set of rows alone.

    `hashes` are uint64 [rows], ascending; `limit` is the largest number of rows.
    """

    hashes: npt.NDArray[np.uint64]
    table: pa.Table
    limit: int

    @classmethod
    def of(cls, table: pa.Table, row_id: npt.NDArray[np.int64], limit: int) -> Sample:
        """Return the sample of a block; row ids are unique over the dataset."""
        return cls._smallest(_hashes(row_id), table, limit)

    @classmethod
    def chosen(cls, table: pa.Table, row_id: npt.NDArray[np.int64], limit: int) -> Sample:
        """Return the sample of a block of which `table` holds the rows that `smallest_rows` gives, in their order."""
        return cls(hashes=_hashes(row_id), table=table.combine_chunks(), limit=limit)

    @classmethod
    def _smallest(cls, hashes: npt.NDArray[np.uint64], table: pa.Table, limit: int) -> Sample:
        some = _smallest(hashes, limit)
        return cls(hashes=hashes[some], table=table.take(pa.array(some)).combine_chunks(), limit=limit)

    def __add__(self, other: Sample) -> Sample:
        table = pa.concat_tables([self.table, other.table])
        return self._smallest(np.concatenate([self.hashes, other.hashes]), table, self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Co-moments of numeric columns, each pair over the rows that have both finite.

    All are float64 [columns, columns]: `count`, `mean` (of the row's column), `spread` (its squared deviations) and
    `product` (of the deviations of both). Adding is the pairwise form of Chan et al. as for `Numbers`.
    """

    count: Floats
    mean: Floats
    spread: Floats
    product: Floats

    @classmethod
    def of(cls, columns: Sequence[Floats]) -> Pairs:
        """Return the co-moments of columns float64 [rows] each, computed in slices of rows."""
        size = len(columns)
        total = cls(**{name: np.zeros((size, size)) for name in ("count", "mean", "spread", "product")})
        rows = len(columns[0]) if columns else 0
        memory = np.empty((3, size, min(rows, _SLICE_ROWS)))  # used again for every slice
        for first in range(0, rows, _SLICE_ROWS):
            part = [column[first : first + _SLICE_ROWS] for column in columns]
            values, scratch, known = memory if len(part[0]) == memory.shape[2] else np.empty((3, size, len(part[0])))
            total = total + cls._of_slice(np.stack(part, out=values), scratch, known)
        return total

    @classmethod
    def _of_slice(cls, values: Floats, scratch: Floats, known: Floats) -> Pairs:
        """Return the co-moments of values float64 [columns, rows]; the others are memory of the same shape."""
        size, rows = values.shape
        shape = (size, size)
        with np.errstate(over="ignore", invalid="ignore"):
            center = np.divide(values, rows, out=scratch).sum(axis=1)
            if np.isfinite(center).all():
                apart = np.subtract(values, center[:, None], out=scratch)
                product = apart @ apart.T
                return cls(
                    count=np.full(shape, float(rows)),
                    mean=np.repeat(center[:, None], size, axis=1),
                    spread=np.repeat(np.diag(product)[:, None], size, axis=1),
                    product=product,
                )
            there = np.isfinite(values)
            absent = ~there
            np.copyto(known, there)
            np.divide(values, np.maximum(known.sum(axis=1), 1)[:, None], out=scratch)
            np.copyto(scratch, 0.0, where=absent)
            center = scratch.sum(axis=1)
            apart = np.subtract(values, center[:, None], out=scratch)
            np.copyto(apart, 0.0, where=absent)
            count = known @ known.T
            some = np.maximum(count, 1)
            sums = apart @ known.T
            return cls(
                count=count,
                mean=np.where(count > 0, center[:, None] + sums / some, 0.0),
                spread=np.square(apart, out=values) @ known.T - np.square(sums) / some,
                product=apart @ apart.T - sums * sums.T / some,
            )

    def __add__(self, other: Pairs) -> Pairs:
        count = self.count + other.count
        weight = self.count * other.count / np.maximum(count, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            apart = other.mean - self.mean
            return Pairs(
                count=count,
                mean=self.mean + apart * (other.count / np.maximum(count, 1)),
                spread=self.spread + other.spread + np.square(apart) * weight,
                product=self.product + other.product + apart * apart.T * weight,
            )

    def correlations(self) -> list[list[float | None]]:
        """Return Pearson's correlation of each pair; None where a column never varies or numbers are too large."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            floor = np.square(self.mean) * self.count * 1e-28
            varies = (self.spread > floor) & (self.spread.T > floor.T)
            found = np.where(varies, self.product / (np.sqrt(self.spread) * np.sqrt(self.spread.T)), np.nan)
        return [[float(np.clip(one, -1, 1)) if np.isfinite(one) else None for one in row] for row in found]
