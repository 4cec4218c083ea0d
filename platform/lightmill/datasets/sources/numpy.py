"""NumPy arrays: .npy files, and .npz files of arrays with equally many rows. Never pickles.

An array [rows] is a column of numbers; [rows, ...] is a column of fixed-shape tensors. The bytes are read a
batch of rows at a time, from any place, so that an array need not fit in memory.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy

from lightmill.datasets.sources.file_source import FileSource, Rows
from lightmill.datasets.sources.files import FileRef, Place
from lightmill.datasets.sources.port import OnBad, Part, consecutive
from lightmill.datasets.sources.problems import DamageError
from lightmill.datasets.sources.streams import read_head
from lightmill.records.sources import Limits, NumpySpec

_BATCH_BYTES = 16 << 20
_FREE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Array:
    """An array that is read on: its column, shape, dtype and bytes."""

    column: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    data: IO[bytes]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def type(self) -> pa.DataType:
        """Return the Arrow type of the column."""
        value = pa.from_numpy_dtype(self.dtype.newbyteorder("="))
        return value if len(self.shape) == 1 else pa.fixed_shape_tensor(value, self.shape[1:])

    def rows(self, count: int) -> pa.Array:
        """Return the next rows.

        Raises:
            DamageError: The file ends before them.
        """
        raw = read_head(self.data, count * self.row_bytes)
        if len(raw) < count * self.row_bytes:
            raise DamageError(f"array {self.column!r} ends before its last row; the file is truncated")
        values = np.frombuffer(raw, dtype=self.dtype).reshape(count, *self.shape[1:])
        values = values.astype(self.dtype.newbyteorder("="), copy=False)
        if values.ndim == 1:
            return pa.array(values, type=self.type())
        storage = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), math.prod(self.shape[1:]))
        return pa.ExtensionArray.from_storage(self.type(), storage)


class NumpySource(FileSource[NumpySpec]):
    """NumPy files."""

    suffixes = (".npy", ".npz")

    def _file_schema(self, place: Place, file: FileRef) -> pa.Schema:
        with place.open(file) as opened, ExitStack() as stack:
            arrays = _open_arrays(opened, self.spec.column, self.limits, stack)
            return pa.schema([(array.column, array.type()) for array in arrays])

    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield tables of about 16 MiB."""
        place, file = self.place_of(part)
        with place.open(file) as opened, ExitStack() as stack:
            arrays = _open_arrays(opened, self.spec.column, self.limits, stack)
            total, first = arrays[0].shape[0], 0
            step = max(1, min(batch_rows, _BATCH_BYTES // max(1, sum(array.row_bytes for array in arrays))))
            while first < total:
                count = min(step, total - first)
                table = pa.table({array.column: array.rows(count) for array in arrays})
                yield self.conform(table, consecutive(first, count), part, on_bad)
                first += count


def _open_arrays(file: IO[bytes], column: str, limits: Limits, stack: ExitStack) -> list[_Array]:
    """Return the arrays of a file, ready to be read; raises DamageError if they cannot be rows."""
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(b"PK"):
        archive = stack.enter_context(zipfile.ZipFile(file))
        members = archive.infolist()
        if len(members) > limits.columns:
            raise DamageError(f"it holds {len(members)} arrays, more than limits.columns of {limits.columns}")
        for member in members:
            _check_expansion(member, limits.expansion)
        arrays = [_open_array(stack.enter_context(archive.open(m)), m.filename.removesuffix(".npy")) for m in members]
    else:
        arrays = [_open_array(file, column)]
    _check_rows(arrays, limits)
    return arrays


def _open_array(data: IO[bytes], column: str) -> _Array:
    version = npy.read_magic(data)
    if version not in ((1, 0), (2, 0)):
        raise DamageError(f"array {column!r} is in version {version} of the format; save it with a plain dtype")
    header = npy.read_array_header_1_0(data) if version == (1, 0) else npy.read_array_header_2_0(data)
    shape, fortran, dtype = header
    if dtype.hasobject or dtype.kind not in "biuf":
        raise DamageError(f"array {column!r} has dtype {dtype}; only numbers and booleans are read, nothing unpickled")
    if not shape or any(size < 0 for size in shape) or (0 in shape[1:]):
        raise DamageError(f"array {column!r} has the shape {list(shape)}; rows are axis 0, and no axis may be empty")
    if fortran and len(shape) > 1:
        raise DamageError(f"array {column!r} is in Fortran order; save numpy.ascontiguousarray of it")
    return _Array(column=column, shape=shape, dtype=dtype, data=data)


def _check_rows(arrays: list[_Array], limits: Limits) -> None:
    if not arrays:
        raise DamageError("it holds no array")
    lengths = {array.shape[0] for array in arrays}
    if len(lengths) > 1:
        raise DamageError(f"its arrays have {sorted(lengths)} rows; give arrays with equally many")
    if max(array.row_bytes for array in arrays) > limits.cell_bytes:
        raise DamageError(f"a cell has more bytes than limits.cell_bytes of {limits.cell_bytes}")


def _check_expansion(member: zipfile.ZipInfo, expansion: int) -> None:
    if member.file_size > _FREE_BYTES + expansion * member.compress_size:
        raise DamageError(
            f"{member.filename!r} decompresses to more than {expansion} times its size; if that is right, raise "
            "limits.expansion"
        )
