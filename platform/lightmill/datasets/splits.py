"""Which row goes to which split. Pure: labels, shares and a seed in, one number a row out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightmill.records.specs import SplitSpec

SPLITS = ("train", "validation", "test")


def assign_splits(label: npt.NDArray[np.int64], spec: SplitSpec) -> npt.NDArray[np.int8]:
    """Return int8 [rows], an index into SPLITS; stratified, every class keeps the shares to within one row."""
    groups = np.unique(label) if spec.stratify else np.array([0])
    keys = label if spec.stratify else np.zeros_like(label)
    out = np.empty(len(label), dtype=np.int8)
    for group in groups:
        rows = np.flatnonzero(keys == group)
        generator = np.random.Generator(np.random.PCG64([spec.seed, int(group) + 1]))
        shuffled = generator.permutation(rows)
        first = round(len(rows) * spec.train)
        second = first + round(len(rows) * spec.validation)
        out[shuffled[:first]] = 0
        out[shuffled[first:second]] = 1
        out[shuffled[second:]] = 2
    return out
