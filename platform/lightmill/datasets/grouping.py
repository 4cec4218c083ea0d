"""Whole groups into bins of wished sizes: what keeps a key in one split, and on one worker."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

GREEDY_MAX = 100_000


def pack_groups(
    sizes: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], generator: np.random.Generator
) -> npt.NDArray[np.int32]:
    """Return int32 [groups], the bin of each group; `shares` are the wished shares of the bins and add up to 1.

    The largest groups go one by one where most is lacking, as in R. L. Graham's "Bounds on multiprocessing timing
    anomalies", 1969; the others, shuffled, fill what is left in one run. A bin misses its wished size by at most
    twice the largest group. The loop sees at most `GREEDY_MAX` groups, the rest is vectorized.
    """
    order = generator.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    out = np.empty(len(sizes), dtype=np.int32)
    lacking = [(-float(sizes.sum() * share), index) for index, share in enumerate(shares)]
    heapq.heapify(lacking)
    for group in order[:GREEDY_MAX].tolist():
        most, index = lacking[0]
        out[group] = index
        heapq.heapreplace(lacking, (most + float(sizes[group]), index))
    rest = generator.permutation(order[GREEDY_MAX:])
    if len(rest):
        wished = np.zeros(len(shares))
        for most, index in lacking:
            wished[index] = max(-most, 0.0)
        ends = np.cumsum(sizes[rest])
        middles = ends - sizes[rest] / 2
        cuts = np.cumsum(wished) * (ends[-1] / max(wished.sum(), 1.0))
        out[rest] = np.minimum(np.searchsorted(cuts, middles), len(shares) - 1)
    return out
