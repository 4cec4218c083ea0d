"""The rows of a split dealt to lanes of training, and read again: all at once, or in order through Ray Data.

Positions follow the files of the manifest. A lane's rows come from every file that holds one of them, so that with
`random` each worker decrypts all files, and with `sequential` its own, but for those in which one lane's rows end.
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
class FilePart:
    """Some rows of a file, by their places in it."""

    entry: FileEntry
    places: Positions


def deal_split(
    version: OpenVersion, location: RegistryLocation, spec: DistributionSpec, lanes: int, split: str = "train"
) -> tuple[Positions, ...]:
    """Return for each of `lanes` the rising positions of its rows; reads one column where the distribution is by one.

    Raises:
        RequestError: There is no such column.
    """
    rows = sum(entry.rows or 0 for entry in split_files(version, split))
    codes = _codes(version, location, spec, split) if spec.by in ("class", "key") else None
    return tuple(np.sort(mine) for mine in distribute(spec, rows, lanes, codes))


def parts_of(version: OpenVersion, split: str, places: Positions) -> list[FilePart]:
    """Return the parts of a split's files in which rising positions lie."""
    files = split_files(version, split)
    starts = np.cumsum([0, *((entry.rows or 0) for entry in files)])
    cuts = np.searchsorted(places, starts)
    return [
        FilePart(entry=entry, places=places[cuts[number] : cuts[number + 1]] - starts[number])
        for number, entry in enumerate(files)
        if cuts[number] < cuts[number + 1]
    ]


def stream_parts(
    version: OpenVersion, location: RegistryLocation, parts: Sequence[FilePart], columns: Sequence[str]
) -> ray.data.Dataset:
    """Return a lazy Ray dataset of the columns of some rows, in the order of the parts; Ray must be connected."""
    found = ray.data.read_datasource(_PartSource(location, version, parts, columns), override_num_blocks=len(parts))
    found.context.execution_options.preserve_order = True
    return found


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


class _PartSource(SealedSource):
    """Reads some rows of each file; which ones is kept in Ray's object store."""

    def __init__(
        self,
        location: RegistryLocation,
        version: OpenVersion,
        parts: Sequence[FilePart],
        columns: Sequence[str],
    ) -> None:
        super().__init__(location, version.id, [part.entry for part in parts], columns)
        self._rows = {part.entry.path: (ray.put(part.places), len(part.places)) for part in parts}

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
