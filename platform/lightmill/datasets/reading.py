"""Reading a sealed version: as a Ray dataset for training, or as rows for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.data

from lightmill.datasets.ingest import FEATURES, LABEL
from lightmill.datasets.sealed import SealedSource, read_file
from lightmill.datasets.splits import SPLITS
from lightmill.errors import RequestError
from lightmill.records.assets import FileEntry
from lightmill.registry import OpenVersion, RegistryLocation


def split_files(version: OpenVersion, split: str) -> tuple[FileEntry, ...]:
    """Return the files of one split.

    Raises:
        RequestError: There is no split of this name.
    """
    if split not in SPLITS:
        raise RequestError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")
    return tuple(entry for entry in version.manifest.files if entry.group == split)


def read_split(
    version: OpenVersion, location: RegistryLocation, split: str, columns: Sequence[str] = (FEATURES, LABEL)
) -> ray.data.Dataset:
    """Return a lazy Ray dataset of a split's columns; blocks are decrypted where they are used."""
    return ray.data.read_datasource(SealedSource(location, version.id, split_files(version, split), columns))


def read_rows(version: OpenVersion, location: RegistryLocation, split: str, offset: int, limit: int) -> pa.Table:
    """Return rows [offset, offset + limit) of a split, without Ray.

    Raises:
        RequestError: There is no split of this name.
    """
    parts: list[pa.Table] = []
    for entry in split_files(version, split):
        rows = entry.rows or 0
        if offset < rows and limit > 0:
            part = read_file(location, version.id, entry, None).slice(offset, limit)
            parts.append(part)
            limit -= part.num_rows
        offset = max(0, offset - rows)
    return pa.concat_tables(parts) if parts else pa.table({})


def feature_rows(table: pa.Table) -> npt.NDArray[np.float32]:
    """Return the prepared features of a table as float32 [rows, features], writable."""
    column = table.column(FEATURES).combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), -1)
