"""Rows of tokens of unequal lengths, computed together: which may be, and how the shorter are filled up.

A batch is padded to its longest row. Lengths up to the same edge go together, so that with edges at powers of two at
most half of a row is padding. The model is told the true lengths and leaves the rest out of account.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[Any]
Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthBuckets:
    """`edges` are the largest lengths of buckets, in rising order; longer rows go only with those of their length.

    `value` fills up, `right` says on which side.
    """

    edges: tuple[int, ...]
    value: int
    right: bool = True

    def bucket(self, length: int) -> int:
        """Return the edge of the bucket that a row of this length belongs to."""
        place = bisect_left(self.edges, length)
        return self.edges[place] if place < len(self.edges) else length

    def pad(self, parts: Sequence[Tokens]) -> tuple[Tokens, Lengths]:
        """Return rows [n, longest] of parts [n_i, length_i], and the true length of each row, int64 [n]."""
        counts = [len(part) for part in parts]
        widths = [part.shape[1] for part in parts]
        longest = max(widths)
        lengths = np.repeat(np.array(widths, dtype=np.int64), counts)
        rows = np.full((sum(counts), longest), self.value, dtype=parts[0].dtype)
        at = 0
        for part, count, width in zip(parts, counts, widths, strict=True):
            start = 0 if self.right else longest - width
            rows[at : at + count, start : start + width] = part
            at += count
        return rows, lengths


def bucket_edges(chosen: Literal["powers_of_two", "none"] | tuple[int, ...], longest: int) -> tuple[int, ...]:
    """Return the edges for rows of up to `longest` tokens; none where only equal lengths go together."""
    if isinstance(chosen, tuple):
        return chosen
    if chosen == "none":
        return ()
    edges = [8]
    while edges[-1] < longest:
        edges.append(min(edges[-1] * 2, longest))
    return tuple(edges)
