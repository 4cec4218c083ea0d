"""The rows of a split dealt to training workers: each reads its own rows of the sealed files through Ray Data.

Positions follow the files of the manifest. A worker's rows come from every file that holds one of them, so that with
`random` each file is decrypted once for each worker, and with `sequential` once in all, but for the files in which one
worker's rows end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from lightmill.datasets.columns import LABEL
from lightmill.datasets.distribution import Positions, distribute
from lightmill.datasets.reading import read_file, split_files
from lightmill.datasets.sealed import SealedSource
from lightmill.errors import RequestError
from lightmill.records.assets import FileEntry
from lightmill.records.splitting import DistributionSpec
from lightmill.registry import OpenVersion, RegistryLocation


@dataclass(frozen=True, slots=True, kw_only=True)
class DealtSplit:
    """Which rows of a split each worker reads; `places[worker]` are rising positions in the order of the files."""

    version: OpenVersion
    location: RegistryLocation
    split: str
    places: tuple[Positions, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of rows of each worker."""
        return tuple(len(places) for places in self.places)

    def datasets(self, columns: Sequence[str]) -> list[ray.data.Dataset]:
        """Return for each worker a lazy Ray dataset of the columns of its rows; Ray must be connected."""
        files = split_files(self.version, self.split)
        starts = np.cumsum([0, *((entry.rows or 0) for entry in files)])
        return [
            ray.data.read_datasource(
                _WorkerSource(self.location, self.version, _of_files(files, starts, mine), columns)
            )
            for mine in self.places
        ]


def distribute_split(
    version: OpenVersion, location: RegistryLocation, spec: DistributionSpec, workers: int, split: str = "train"
) -> DealtSplit:
    """Return which rows of a split go to which worker; reads one column where the distribution is by one.

    Raises:
        RequestError: There is no such column, or a worker would get no rows.
    """
    rows = sum(entry.rows or 0 for entry in split_files(version, split))
    codes = _codes(version, location, spec, split) if spec.by in ("class", "key") else None
    places = tuple(np.sort(mine) for mine in distribute(spec, rows, workers, codes))
    idle = [worker for worker, mine in enumerate(places) if not len(mine)]
    if idle:
        raise RequestError(
            f"Distribution by {spec.by!r} leaves worker {idle[0]} of {workers} without rows; lower `workers`, or "
            "choose another distribution."
        )
    return DealtSplit(version=version, location=location, split=split, places=places)


def _codes(
    version: OpenVersion, location: RegistryLocation, spec: DistributionSpec, split: str
) -> npt.NDArray[np.int64]:
    """Return a number for the class or key of each row, equal for equal values; missing values are equal."""
    card = version.manifest.dataset
    name = spec.column or LABEL
    known = (*((LABEL,) if card and card.classes else ()), *(card.source_columns if card else ()))
    if name not in known:
        raise RequestError(
            f"distribution.column {name!r} is not a column of {version.id}; it has {', '.join(known) or 'none'}. "
            "Keep it with `keep_source_columns`, or distribute by another."
        )
    parts = [read_file(location, version.id, entry, [name]).column(name) for entry in split_files(version, split)]
    column: Any = pa.chunked_array([chunk for part in parts for chunk in part.chunks])
    encoded = column.dictionary_encode(null_encoding="encode").combine_chunks()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _of_files(
    files: Sequence[FileEntry], starts: npt.NDArray[np.int64], mine: Positions
) -> list[tuple[FileEntry, Positions]]:
    """Return the files that hold rows of a worker, with the rows' places in them."""
    cuts = np.searchsorted(mine, starts)
    return [
        (entry, mine[cuts[number] : cuts[number + 1]] - starts[number])
        for number, entry in enumerate(files)
        if cuts[number] < cuts[number + 1]
    ]


class _WorkerSource(SealedSource):
    """Reads some rows of each file; which ones is kept in Ray's object store."""

    def __init__(
        self,
        location: RegistryLocation,
        version: OpenVersion,
        parts: Sequence[tuple[FileEntry, Positions]],
        columns: Sequence[str],
    ) -> None:
        super().__init__(location, version.id, [entry for entry, _ in parts], columns)
        self._rows = {entry.path: (ray.put(rows), len(rows)) for entry, rows in parts}

    def estimate_inmemory_data_size(self) -> int | None:
        """Return the share of the files' size in bytes that is read."""
        return sum(self._size(entry) for entry in self._files)

    def _size(self, entry: FileEntry) -> int:
        return entry.size * self._rows[entry.path][1] // max(entry.rows or 1, 1)

    def _task(self, entry: FileEntry, limit: int | None) -> ReadTask:
        location, id, columns = self._location, self._id, self._columns
        places, count = self._rows[entry.path]
        metadata = BlockMetadata(num_rows=count, size_bytes=self._size(entry), exec_stats=None, input_files=None)

        def read() -> list[pa.Table]:
            return [read_file(location, id, entry, columns).take(pa.array(ray.get(places)))]

        return ReadTask(read, metadata, per_task_row_limit=limit)
