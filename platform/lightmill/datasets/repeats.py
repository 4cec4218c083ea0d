"""Rows or values that occur again, found from 128-bit digests over the whole dataset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightmill.datasets.digests import Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """Digests of rows (or of the values of one unique column) and the ids of their rows; they add up over blocks.

    Memory: 24 bytes a row, and as much again while `later` runs. Where that is too much, `slices` > 1 keeps only
    the digests of one slice of the digest space: so many passes find together what one pass finds, each with so
    many times less memory.
    """

    digest: Words
    row_id: npt.NDArray[np.int64]

    @classmethod
    def of(cls, digest: Words, row_id: npt.NDArray[np.int64], *, slices: int = 1, index: int = 0) -> Repeats:
        """Return the digests, uint64 [rows, 2], of which the slice is `index`."""
        if slices > 1:
            mine = digest[:, 1] % np.uint64(slices) == np.uint64(index)
            digest, row_id = digest[mine], row_id[mine]
        return cls(digest=digest, row_id=row_id)

    @classmethod
    def join(cls, parts: list[Repeats]) -> Repeats:
        """Return the sum of many parts, copied once."""
        return cls(
            digest=np.concatenate([np.empty((0, 2), dtype=np.uint64), *(part.digest for part in parts)]),
            row_id=np.concatenate([np.empty(0, dtype=np.int64), *(part.row_id for part in parts)]),
        )

    def __add__(self, other: Repeats) -> Repeats:
        return Repeats.join([self, other])

    def later(self) -> npt.NDArray[np.int64]:
        """Return int64, ascending: the ids of all rows whose digest a row with a smaller id has."""
        order = np.argsort(self.digest[:, 0])
        half = self.digest[order, 0]
        same = half[1:] == half[:-1]
        if not same.any():
            return np.empty(0, dtype=np.int64)
        # Only rows whose first half stands beside its like can be repeats: sort those in full.
        beside = np.zeros(len(order), dtype=bool)
        beside[1:] |= same
        beside[:-1] |= same
        some = order[beside]
        digest, row_id = self.digest[some], self.row_id[some]
        full = np.lexsort((row_id, digest[:, 1], digest[:, 0]))
        digest, row_id = digest[full], row_id[full]
        repeated = (digest[1:] == digest[:-1]).all(axis=1)
        return np.sort(row_id[1:][repeated])


def mark(
    verdict: npt.NDArray[np.int8], row_id: npt.NDArray[np.int64], later: npt.NDArray[np.int64], reason: int
) -> npt.NDArray[np.int8]:
    """Return the verdicts with `reason` for every kept row whose id is in `later` (ascending)."""
    if not len(later):
        return verdict
    place = np.minimum(np.searchsorted(later, row_id), len(later) - 1)
    return np.where((verdict == 0) & (later[place] == row_id), np.int8(reason), verdict)
