"""Columns of a table as a step sees them: found by name with a clear error, read as numbers, put back in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.kernels import pc

ROW_ID = "row_id"


def column_of(table: pa.Table, name: str, step: str) -> pa.ChunkedArray:
    """Return a column, without a dictionary.

    Raises:
        RequestError: The table has no such column, or has it twice.
    """
    places = table.schema.get_all_field_indices(name)
    if len(places) != 1:
        known = ", ".join(table.column_names[:8]) or "none"
        what = f"there is no column {name!r}" if not places else f"there are {len(places)} columns {name!r}"
        raise RequestError(f"Step {step!r}: {what}; the table has {known}. Correct `prepare` or the column's name.")
    column = table.column(places[0])
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def with_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Return the table with the column `name` replaced in its place, or added at the end."""
    place = table.schema.get_field_index(name)
    if place >= 0:
        return table.set_column(place, name, values)
    return table.append_column(name, values)


def is_number(kind: pa.DataType) -> bool:
    """Whether values of this type can be read as float64: integers, floats and booleans."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are Unicode text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def floats(column: pa.ChunkedArray | pa.Array, name: str, step: str) -> npt.NDArray[np.float64]:
    """Return a column of numbers as float64 [rows], NaN where it is NULL; not a copy where none is needed.

    Raises:
        RequestError: The column holds no numbers.
    """
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if not is_number(column.type):
        raise RequestError(
            f"Step {step!r}: column {name!r} has type {column.type}, not numbers. Declare it as a number, or encode it "
            "before this step."
        )
    if column.type != pa.float64():
        column = column.cast(pa.float64(), safe=False)
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return np.asarray(column.to_numpy(zero_copy_only=False))


def present(column: pa.ChunkedArray, name: str, step: str, *, finite: bool = True) -> npt.NDArray[np.float64]:
    """Return the values of a column of numbers that are not missing, float64.

    Raises:
        RequestError: The column holds no numbers, or an infinity and `finite` is asked for.
    """
    values = floats(column, name, step)
    known = ~np.isnan(values)
    if not known.all():
        values = values[known]
    if finite:
        check_finite(values, name, step)
    return values


def check_finite(values: npt.NDArray[np.float64], name: str, step: str) -> None:
    """Check values of a column, none of which is NaN.

    Raises:
        RequestError: One of them is an infinity.
    """
    if not np.isfinite(values.sum()) and not np.isfinite(values).all():
        raise RequestError(
            f"Step {step!r}: column {name!r} holds an infinite value, on which nothing can be fitted. Put a `clip` "
            "with fixed limits or a `filter` before this step."
        )


def texts(table: pa.Table, name: str, step: str) -> pa.Array:
    """Return a column of text as one array of type large_string.

    Raises:
        RequestError: There is no such column, or it holds no text.
    """
    column = column_of(table, name, step)
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.large_string())
    if not is_text(column.type):
        raise RequestError(f"Step {step!r}: column {name!r} has type {column.type}, not text. Name a text column.")
    return one_array(column.cast(pa.large_string()))


def one_array(column: pa.ChunkedArray) -> Any:
    """Return the values of a column as one array."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def row_ids(table: pa.Table, step: str) -> npt.NDArray[np.int64]:
    """Return the row ids, int64 [rows].

    Raises:
        RequestError: There is no column `row_id` of integers, or it holds NULL.
    """
    column = column_of(table, ROW_ID, step)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise RequestError(f"Step {step!r}: `row_id` must be an integer in every row; it has type {column.type}.")
    return np.asarray(column.cast(pa.int64()).to_numpy())


def row_name(table: pa.Table, place: int) -> str:
    """Return how errors name a row: by its id where it has one, else by its place in the table."""
    if ROW_ID in table.column_names:
        return f"row_id {table.column(ROW_ID)[place].as_py()}"
    return f"row {place} of the table"


def missing_in(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a boolean column: true where the value is NULL or NaN."""
    return pc.is_null(column, nan_is_null=pa.types.is_floating(column.type))
