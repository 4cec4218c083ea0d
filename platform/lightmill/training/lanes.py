"""Which rows each step takes: the same global batches whatever the number of workers.

The rows of the training split are dealt to lanes, and a worker computes some consecutive lanes. Each step takes some
rows of every lane, in an order that seed, epoch and lane alone decide. How many lanes there are does not depend on how
many workers run, so that a run with more or fewer workers, or one that goes on with another number in the middle of an
epoch, sees the same rows in the same steps, every row once in each epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]
_DIVISIBLE = 80_640  # 2^8 x 3^2 x 5 x 7: has most numbers of workers as divisors


def lane_count(batch_size: int, workers: int) -> int:
    """Return the number of lanes: it divides the batch, and `workers` divides it, where the batch allows that."""
    lanes = math.gcd(batch_size, _DIVISIBLE)
    if batch_size % workers:
        return max(lanes, workers)
    both = math.lcm(lanes, workers)
    return both if batch_size % both == 0 else max(workers, lanes if lanes % workers == 0 else workers)


class Lanes:
    """How many rows of each lane every step takes; all lanes end with the last step.

    Attributes:
        steps: The steps of an epoch.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int) -> None:
        """Divide lanes of so many rows into steps of `batch_size` rows over all lanes, as far as lanes are even."""
        self.sizes = np.asarray(sizes, dtype=np.int64)
        share = batch_size / len(self.sizes)
        self.steps = max(1, math.ceil(int(self.sizes.max()) / share))
        step = np.arange(self.steps + 1, dtype=np.int64)
        if int(self.sizes.max()) - int(self.sizes.min()) <= 1:
            wanted = (step * batch_size // len(self.sizes))[None, :]
            self._cuts = np.minimum(wanted, self.sizes[:, None])
        else:
            self._cuts = step[None, :] * self.sizes[:, None] // self.steps
        self._cuts[:, -1] = self.sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def share(self, rank: int, world: int) -> range:
        """Return the lanes of one of `world` workers."""
        return range(rank * len(self) // world, (rank + 1) * len(self) // world)

    def rows(self, step: int, lanes: range | None = None) -> int:
        """Return how many rows a step takes of some lanes, by default of all."""
        some = self._cuts if lanes is None else self._cuts[lanes.start : lanes.stop]
        return int((some[:, step + 1] - some[:, step]).sum())

    def cuts(self, lane: int) -> Positions:
        """Return where each step begins within a lane, int64 [steps + 1]."""
        return self._cuts[lane]

    def order(self, lanes: range, seed: int, epoch: int) -> tuple[Positions, Positions]:
        """Return the rows of some lanes in the order of an epoch, and where each step begins, int64 [steps + 1].

        Rows are counted from the first of the first of these lanes, lane after lane.
        """
        rows, step_of, base = [], [], 0
        for lane in lanes:
            size = int(self.sizes[lane])
            rows.append(base + shuffled(size, seed, epoch, lane))
            step_of.append(np.repeat(np.arange(self.steps, dtype=np.int32), np.diff(self._cuts[lane])))
            base += size
        if not rows:
            return np.zeros(0, dtype=np.int64), np.zeros(self.steps + 1, dtype=np.int64)
        steps = np.concatenate(step_of)
        order = np.concatenate(rows)[np.argsort(steps, kind="stable")]
        return order, np.concatenate([[0], np.cumsum(np.bincount(steps, minlength=self.steps))])


def shuffled(rows: int, *seeds: int) -> Positions:
    """Return 0 to rows - 1 in an order that the seeds decide."""
    generator = np.random.Generator(np.random.PCG64([seed & 0xFFFFFFFF for seed in seeds]))
    return generator.permutation(rows).astype(np.int64, copy=False)
