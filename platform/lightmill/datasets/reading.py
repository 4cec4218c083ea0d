"""Reading a sealed version's files without Ray: rows for people, and for whoever holds them whole."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.datasets.columns import FEATURES
from lightmill.datasets.parquet import read_encrypted
from lightmill.errors import RequestError
from lightmill.records.assets import FileEntry
from lightmill.records.references import VersionId
from lightmill.records.splitting import SPLITS
from lightmill.registry import OpenVersion, RegistryLocation

ALL_ROWS = 1 << 62


def split_files(version: OpenVersion, split: str) -> tuple[FileEntry, ...]:
    """Return the files of one split.

    Raises:
        RequestError: There is no split of this name.
    """
    if split not in SPLITS:
        raise RequestError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")
    return tuple(entry for entry in version.manifest.files if entry.group == split)


@lru_cache(maxsize=16)
def open_version(location: RegistryLocation, id: VersionId) -> OpenVersion:
    """Open a version once a process; versions never change."""
    return location.open().open(id)


def read_file(location: RegistryLocation, id: VersionId, entry: FileEntry, columns: Sequence[str] | None) -> pa.Table:
    """Return one file's rows after its digest has been checked; see `read_object` for the errors."""
    version = open_version(location, id)  # pyright: ignore[reportArgumentType] - frozen records hash
    return read_encrypted(version.read_object(entry), version.file_subkey(entry), entry.path, columns)


def read_rows(
    version: OpenVersion, location: RegistryLocation, split: str, offset: int = 0, limit: int = ALL_ROWS
) -> pa.Table:
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
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return flat.reshape(len(column), column.type.list_size)
