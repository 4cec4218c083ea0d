"""The `features` step: columns side by side in one float32 tensor, in declared order."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.columns import column_of, floats, is_number, one_array, row_name, with_column
from lightmill.models.preparation.images import tensor
from lightmill.records.preparation import Features

_TILE = 4096


def assemble(table: pa.Table, step: Features) -> pa.Table:
    """Return the table with the column `step.name`, float32 [*shape], and without its columns unless `keep`.

    Other columns, such as token ids, pass through.

    Raises:
        RequestError: A column is missing or of another type, the widths do not add up to `shape`, or a value is missing
            or not finite as float32.
    """
    parts = [_part(column_of(table, name, step.step), name) for name in step.columns]
    width = sum(part.shape[1] for part in parts)
    shape = step.shape or (width,)
    if math.prod(shape) != width:
        raise RequestError(
            f"Step 'features': shape {list(shape)} holds {math.prod(shape)} values, but the columns give {width}. "
            "Correct `shape`."
        )
    dense = np.empty((len(table), width), dtype=np.float32)
    with np.errstate(over="ignore"):
        for start in range(0, len(table), _TILE):
            place = 0
            for part in parts:
                dense[start : start + _TILE, place : place + part.shape[1]] = part[start : start + _TILE]
                place += part.shape[1]
    _check_finite(table, step, parts, dense)
    if not step.keep:
        table = table.drop_columns(list(step.columns))
    return with_column(table, step.name, tensor(dense.reshape(len(table), *shape)))


def _part(column: pa.ChunkedArray, name: str) -> npt.NDArray[np.generic]:
    """Return a column as a matrix [rows, places], NaN where it is NULL."""
    kind = column.type
    if is_number(kind) or pa.types.is_null(kind):
        if kind == pa.float32() and not column.null_count:
            return one_array(column).to_numpy(zero_copy_only=False)[:, None]
        return floats(column, name, "features")[:, None]
    if isinstance(kind, pa.FixedShapeTensorType):
        array = one_array(column).storage
    elif pa.types.is_fixed_size_list(kind):
        array = one_array(column)
    else:
        raise RequestError(
            f"Step 'features': column {name!r} has type {kind}, neither a number nor a tensor. Encode it before."
        )
    if not is_number(array.type.value_type):
        raise RequestError(f"Step 'features': column {name!r} holds {array.type.value_type}, not numbers.")
    missing = np.asarray(array.is_null().to_numpy(zero_copy_only=False))
    if missing.any():
        dense = np.full((len(array), array.type.list_size), np.nan)
        dense[~missing] = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, array.type.list_size)
        return dense
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)


def _check_finite(
    table: pa.Table, step: Features, parts: list[npt.NDArray[np.generic]], dense: npt.NDArray[np.float32]
) -> None:
    if np.isfinite(dense.sum(dtype=np.float64)):
        return
    bad = np.argwhere(~np.isfinite(dense))
    if not len(bad):
        return
    row, place = (int(x) for x in bad[0])
    ends = np.cumsum([part.shape[1] for part in parts])
    name = step.columns[int(np.searchsorted(ends, place, side="right"))]
    value = dense[row, place]
    what = "is missing" if np.isnan(value) else "is infinite, or too large for float32"
    raise RequestError(
        f"Step 'features': column {name!r} in {row_name(table, row)} {what}; so are {len(bad)} values in this table. "
        "Put `impute` or `clip` before, or `filter` such rows out."
    )
