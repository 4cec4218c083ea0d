"""A worker's shard of the training split, as batches.

A shard that fits the memory budget streams in from Ray Data once and is kept; later epochs shuffle it with a
seed of their own. A larger one streams every epoch through Ray Data's shuffle buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch

from lightmill.datasets.columns import LABEL
from lightmill.datasets.reading import feature_rows

CACHE_BYTES = 1 << 30
READ_ROWS = 65_536
SHUFFLE_ROWS = 100_000
Batch = tuple[torch.Tensor, torch.Tensor]


class Shard(Protocol):
    """What Ray Train gives a worker: an iterator over its part of a dataset."""

    def iter_batches(self, **options: object) -> Iterator[pa.Table]:
        """Yield batches as Arrow tables."""
        ...


class Batches:
    """Batches of one shard: features float32 [batch, features] and labels int64 [batch], on `device`."""

    def __init__(self, shard: Shard, batch_size: int, seed: int, device: torch.device, shard_bytes: int) -> None:
        self._shard = shard
        self._batch_size = batch_size
        self._seed = seed
        self._device = device
        self._kept: Batch | None = None
        self._keep = shard_bytes <= CACHE_BYTES

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of one epoch, in an order that seed and epoch alone decide."""
        if not self._keep:
            yield from self._stream(number)
            return
        if self._kept is None:
            self._kept = read_all(self._shard, self._device)
        features, label = self._kept
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
        order = torch.randperm(len(label), generator=generator).to(self._device)
        features, label = features[order], label[order]
        yield from zip(features.split(self._batch_size), label.split(self._batch_size), strict=True)

    def _stream(self, number: int) -> Iterator[Batch]:
        for batch in self._shard.iter_batches(
            batch_size=self._batch_size,
            batch_format="pyarrow",
            local_shuffle_buffer_size=SHUFFLE_ROWS,
            local_shuffle_seed=self._seed * 1_000_003 + number,
        ):
            yield to_tensors(batch, self._device)


def to_tensors(batch: pa.Table, device: torch.device) -> Batch:
    """Return a batch of Ray Data as tensors on `device`."""
    label = batch.column(LABEL).to_numpy().astype(np.int64)
    return torch.from_numpy(feature_rows(batch)).to(device), torch.from_numpy(label).to(device)


def read_all(shard: Shard, device: torch.device) -> Batch:
    """Return a whole shard as two tensors."""
    parts = [to_tensors(batch, device) for batch in shard.iter_batches(batch_size=READ_ROWS, batch_format="pyarrow")]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
