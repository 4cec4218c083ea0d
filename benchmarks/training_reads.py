"""Rows delivered to one training worker: a sealed version by `read_split`, plain Parquet by Ray Data.

Each is split for one worker as Ray Train does it, in order, and taken as Arrow batches of as many rows as our training
takes; the worker touches every value once, as copying them to a tensor does. The plain files hold the same tables
under the same compression, a file for a file.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import ray
import ray.data
from ray.data import DataIterator

from lightmill.datasets.columns import FEATURES, LABEL
from lightmill.datasets.reading import feature_rows, read_file, split_files
from lightmill.datasets.sealed import read_split
from lightmill.registry import OpenVersion, RegistryLocation
from lightmill.training.batches import READ_ROWS


@ray.remote(num_cpus=1)
class Worker:
    """Takes a shard whole, as a training worker does in its first epoch."""

    def rows(self, shard: DataIterator) -> int:
        """Return the number of rows, after every feature and label has been copied out."""
        found = 0
        for batch in shard.iter_batches(batch_size=READ_ROWS, batch_format="pyarrow"):
            features = feature_rows(batch)  # pyright: ignore[reportArgumentType]
            labels = batch.column(LABEL).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
            if not len(features) == len(labels):
                raise RuntimeError("a label for each row")
            found += len(features)
        return found


def read_sealed(version: OpenVersion, location: RegistryLocation) -> int:
    """Read the training split of a version in one worker; return the number of rows."""
    return _rows(read_split(version, location, "train"))


def read_plain(folder: Path) -> int:
    """Read the plain copy in one worker; return the number of rows."""
    return _rows(ray.data.read_parquet(str(folder), columns=[FEATURES, LABEL]))


def _rows(dataset: ray.data.Dataset) -> int:
    dataset.context.execution_options.preserve_order = True
    (shard,) = dataset.streaming_split(1, equal=False)
    worker = Worker.remote()
    try:
        return ray.get(worker.rows.remote(shard))  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        ray.kill(worker)


def plain_copy(version: OpenVersion, location: RegistryLocation, folder: Path) -> None:
    """Write the training split's files as plain Parquet."""
    folder.mkdir(parents=True)
    for number, entry in enumerate(split_files(version, "train")):
        table = read_file(location, version.id, entry, None)
        pq.write_table(table, folder / f"{number:05d}.parquet", compression="zstd")
