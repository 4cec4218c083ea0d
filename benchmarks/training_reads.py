"""Rows delivered to one training worker: a sealed version by `read_split`, plain Parquet by Ray Data.

Each is split for one worker as Ray Train does it, in order, and taken as Arrow batches of as many rows as our training
takes; the worker copies every value out once, as making tensors does. It measures whole epochs, after one that started
everything. The plain files hold the same tables under the same compression, a file for a file.
"""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow.parquet as pq
import ray
import ray.data
from ray.data import DataIterator

from lightmill.datasets.columns import FEATURES, LABEL
from lightmill.datasets.parquet import encodings
from lightmill.datasets.reading import feature_rows, read_file, split_files
from lightmill.datasets.sealed import read_split
from lightmill.registry import OpenVersion, RegistryLocation
from lightmill.training.feed import READ_ROWS


@ray.remote(num_cpus=1)
class Worker:
    """Takes its shard whole, as a training worker does in an epoch."""

    def __init__(self, shard: DataIterator) -> None:
        self._shard = shard

    def epoch(self) -> tuple[int, float]:
        """Return the number of rows, all of whose values were copied out, and how many seconds that took."""
        found, started = 0, time.perf_counter()
        for batch in self._shard.iter_batches(batch_size=READ_ROWS, batch_format="pyarrow"):
            features = feature_rows(batch)  # pyright: ignore[reportArgumentType]
            labels = batch.column(LABEL).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
            if len(features) != len(labels):
                raise RuntimeError("every row has a label")
            found += len(features)
        return found, time.perf_counter() - started


class Reader:
    """One worker and its shard of a dataset, which is the whole dataset."""

    def __init__(self, dataset: ray.data.Dataset) -> None:
        dataset.context.execution_options.preserve_order = True
        (shard,) = dataset.streaming_split(1, equal=False)
        self._worker = Worker.remote(shard)  # pyright: ignore[reportCallIssue]

    def epoch(self) -> tuple[int, float]:
        """Read the dataset once more; return rows and seconds, measured in the worker."""
        return ray.get(self._worker.epoch.remote())  # pyright: ignore[reportAttributeAccessIssue]


def readers(version: OpenVersion, location: RegistryLocation, folder: Path) -> dict[str, Reader]:
    """Return readers of the training split of a version, and of its plain copy in `folder`."""
    return {
        "peer": Reader(ray.data.read_parquet(str(folder), columns=[FEATURES, LABEL])),
        "ours": Reader(read_split(version, location, "train")),
    }


def plain_copy(version: OpenVersion, location: RegistryLocation, folder: Path) -> None:
    """Write the training split's files as plain Parquet."""
    folder.mkdir(parents=True)
    for number, entry in enumerate(split_files(version, "train")):
        table = read_file(location, version.id, entry, None)
        pq.write_table(table, folder / f"{number:05d}.parquet", **encodings(table))
