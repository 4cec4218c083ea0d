"""Reading a sealed version's files without Ray: rows for people, and for whoever holds them whole."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
READ_THREADS = 4


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


def take_rows(
    version: OpenVersion,
    location: RegistryLocation,
    split: str,
    positions: npt.NDArray[np.int64],
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Return the rows of a split at some positions, in the order of `positions`, which follow the split's files.

    Files are decrypted on some threads, and only those that hold one of the rows.

    Raises:
        RequestError: There is no split of this name, or not so many rows.
    """
    files = split_files(version, split)
    starts = np.cumsum([0, *((entry.rows or 0) for entry in files)])
    if len(positions) and not 0 <= positions.min() <= positions.max() < starts[-1]:
        raise RequestError(f"The split {split!r} of {version.id} has {starts[-1]} rows, not {positions.max() + 1}.")
    order = np.argsort(positions, kind="stable")
    rising = positions[order]
    cuts = np.searchsorted(rising, starts)
    wanted = [n for n in range(len(files)) if cuts[n] < cuts[n + 1]] or [0][: len(files)]

    def read(number: int) -> pa.Table:
        places = rising[cuts[number] : cuts[number + 1]] - starts[number]
        table = read_file(location, version.id, files[number], columns)
        return table if len(places) == len(table) and _is_all(places) else table.take(pa.array(places))

    with ThreadPoolExecutor(READ_THREADS) as pool:
        found = pa.concat_tables(pool.map(read, wanted)) if wanted else pa.table({})
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return found if _is_all(back) else found.take(pa.array(back))


def _is_all(places: npt.NDArray[np.int64]) -> bool:
    """Return whether places are 0, 1, 2 and so on."""
    return bool((places == np.arange(len(places))).all())
