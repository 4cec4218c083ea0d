"""Which training worker gets which rows: every row exactly once, the same for the same seed.

All functions return, for each worker, int64 row positions. The orders are fixed by the seed; a loop that wants another
order in every epoch shuffles within its worker.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightmill.datasets.grouping import pack_groups
from lightmill.errors import RequestError
from lightmill.records.splitting import DistributionSpec

Positions = npt.NDArray[np.int64]


def distribute(
    spec: DistributionSpec, rows: int, workers: int, codes: npt.NDArray[np.int64] | None = None
) -> list[Positions]:
    """Return for each of `workers` the positions of its rows.

    Args:
        spec: What the specification says.
        rows: The number of rows.
        workers: The number of workers, at least 1.
        codes: int64 [rows], the class (`by: class`) or key (`by: key`) of each row.

    Raises:
        RequestError: There is no worker, or `by` needs codes and none are given.
    """
    if workers < 1:
        raise RequestError(f"{workers} workers cannot take {rows} rows; use at least 1.")
    if spec.by == "sequential":
        return np.array_split(np.arange(rows, dtype=np.int64), workers)
    generator = np.random.Generator(np.random.PCG64([spec.seed, 1]))
    if spec.by == "random":
        return np.array_split(generator.permutation(rows).astype(np.int64, copy=False), workers)
    if codes is None or len(codes) != rows:
        raise RequestError(f"Distribution by {spec.by!r} needs the {spec.by} of each of {rows} rows; name a column.")
    if spec.by == "class":
        return _by_class(codes, workers, generator)
    return _by_key(codes, workers, generator)


def _by_class(codes: npt.NDArray[np.int64], workers: int, generator: np.random.Generator) -> list[Positions]:
    """Deal shuffled rows, class after class, in turn: even to one row in each class and in all."""
    shuffled = generator.permutation(len(codes)).astype(np.int64, copy=False)
    dealt = shuffled[np.argsort(codes[shuffled], kind="stable")]
    return [dealt[worker::workers] for worker in range(workers)]


def _by_key(codes: npt.NDArray[np.int64], workers: int, generator: np.random.Generator) -> list[Positions]:
    _, place, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    owner = pack_groups(sizes.astype(np.int64), np.full(workers, 1 / workers), generator)[place]
    order = np.argsort(owner, kind="stable")
    return np.split(order.astype(np.int64, copy=False), np.searchsorted(owner[order], np.arange(1, workers)))
