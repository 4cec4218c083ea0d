"""Digests of what a dataset holds: equal values give equal digests on every machine, however they were computed.

Stored bytes do not compare, since every version is encrypted under keys of its own. BLAKE3 (J. O'Connor,
J.-P. Aumasson, S. Neves and Z. Wilcox-O'Hearn, 2020) over each column's name, type, missing values and values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from blake3 import blake3
from pyarrow import compute

from lightmill.datasets.arrays import single
from lightmill.records.assets import FileEntry
from lightmill.records.splitting import SPLITS

pc: Any = compute  # pyarrow makes these functions at import; type checkers do not see them


def table_digest(table: pa.Table) -> str:
    """Return the digest of a table in hex: of its columns in their order, and its rows in theirs."""
    hasher = blake3()
    for name, column in zip(table.column_names, table.columns, strict=True):
        hasher.update(f"{name}\0{column.type}\0".encode())
        _add(hasher, single(column, name))
    return hasher.hexdigest()


def dataset_digest(files: Iterable[FileEntry]) -> str:
    """Return the digest of a dataset in hex: of the files of its splits, which have digests of their tables.

    Rows kept aside do not count: they name the places of source files.
    """
    hasher = blake3()
    for entry in sorted((entry for entry in files if entry.group in SPLITS), key=lambda entry: entry.path):
        hasher.update(f"{entry.path}\0{entry.rows}\0{entry.content}\n".encode())
    return hasher.hexdigest()


def _add(hasher: blake3, values: pa.Array) -> None:
    """Take an array's missing values and values; what lies under a missing value does not count."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    kind = values.type
    hasher.update(f"{len(values)}\0{values.null_count}\0".encode())
    if values.null_count:
        hasher.update(np.packbits(values.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        _add_texts(hasher, values)
    elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        if pa.types.is_list(kind):
            counts = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
            hasher.update(_bytes(counts.astype("<i4")))
        _add(hasher, pc.list_flatten(values))
    elif pa.types.is_null(kind):
        return
    elif pa.types.is_primitive(kind):
        _add_numbers(hasher, values)
    else:
        hasher.update(repr(values.to_pylist()).encode())


def _add_texts(hasher: blake3, values: pa.Array) -> None:
    if values.null_count:
        values = values.drop_null()  # which are missing has been said
    hasher.update(_bytes(pc.binary_length(values).to_numpy(zero_copy_only=False).astype("<i4", copy=False)))
    _, offsets_buffer, data = values.buffers()
    if data is None or not len(values):
        return
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[values.offset : values.offset + len(values) + 1]
    hasher.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])


def _add_numbers(hasher: blake3, values: pa.Array) -> None:
    kind = values.type
    if pa.types.is_temporal(kind):
        values = values.cast(pa.int32() if kind.bit_width == 32 else pa.int64())  # pyright: ignore[reportAttributeAccessIssue]
    if values.null_count:
        values = values.drop_null()
    hasher.update(_bytes(values.to_numpy(zero_copy_only=False)))


def _bytes(numbers: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(numbers).view(np.uint8).data
