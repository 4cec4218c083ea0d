"""Categories as numbers: one_hot and ordinal. The order of categories is that of the fitted record."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.columns import column_of, is_text, one_array, with_column
from lightmill.models.preparation.kernels import pc
from lightmill.records.fitted import FittedOneHot, FittedOrdinal
from lightmill.records.preparation import Category

_NULL = -1


def one_hot(table: pa.Table, step: FittedOneHot) -> pa.Table:
    """Return the table with each column as a tensor float32 [places].

    Raises:
        RequestError: A column is missing or of another type than its categories, or a category is unknown and
            `unknown` is `error`.
    """
    for name, categories in zip(step.columns, step.categories, strict=True):
        codes = _codes(table, name, categories, step.step, refuse=step.unknown == "error")
        places = len(categories) + (step.unknown == "other")
        dense = np.zeros((len(codes), places), dtype=np.float32)
        hit = np.flatnonzero((codes >= 0) & (codes < places))
        dense[hit, codes[hit]] = 1.0
        kind = pa.fixed_shape_tensor(pa.float32(), (places,))
        storage = pa.FixedSizeListArray.from_arrays(pa.array(dense.reshape(-1)), places)
        table = with_column(table, name, pa.ExtensionArray.from_storage(kind, storage))
    return table


def ordinal(table: pa.Table, step: FittedOrdinal) -> pa.Table:
    """Return the table with each column as int64 codes; NULL stays NULL.

    Raises:
        RequestError: As for `one_hot`.
    """
    for name, categories in zip(step.columns, step.categories, strict=True):
        codes = _codes(table, name, categories, step.step, refuse=step.unknown == "error")
        table = with_column(table, name, pa.array(codes, mask=codes == _NULL))
    return table


def _codes(
    table: pa.Table, name: str, categories: tuple[Category, ...], step: str, *, refuse: bool
) -> npt.NDArray[np.int64]:
    """Return the place of each value: -1 for NULL, len(categories) for an unknown one."""
    column = one_array(column_of(table, name, step))
    if pa.types.is_null(column.type):
        return np.full(len(column), _NULL, dtype=np.int64)
    known = _value_set(column.type, categories, name, step)
    found = pc.index_in(column.cast(known.type), value_set=known)
    codes = np.asarray(pc.fill_null(found, len(categories)).to_numpy(zero_copy_only=False)).astype(np.int64)
    missing = np.asarray(column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False))
    codes[missing] = _NULL
    unknown = np.flatnonzero(codes == len(categories))
    if refuse and len(unknown):
        value = str(column[int(unknown[0])].as_py())
        raise RequestError(
            f"Step {step!r}: column {name!r} has {len(unknown)} unknown categories, the first {value[:80]!r}; known "
            f"are {', '.join(map(str, categories[:8]))}{', ...' if len(categories) > 8 else ''}. Correct the value, or "
            "set `unknown`."
        )
    return codes


def _value_set(kind: pa.DataType, categories: tuple[Category, ...], name: str, step: str) -> pa.Array:
    """Return the categories as an array of a type to which the column's values can be cast without loss."""
    wanted = (
        pa.large_string()
        if is_text(kind)
        else pa.bool_()
        if pa.types.is_boolean(kind)
        else pa.uint64()
        if pa.types.is_uint64(kind)
        else pa.int64()
        if pa.types.is_integer(kind)
        else None
    )
    python = {pa.large_string(): str, pa.bool_(): bool, pa.uint64(): int, pa.int64(): int}
    if wanted is None or any(type(value) is not python[wanted] for value in categories):
        raise RequestError(
            f"Step {step!r}: column {name!r} has type {kind}, but its categories are such as {categories[:1]!r}. "
            "Categories are texts, integers or booleans, of the column's type."
        )
    return pa.array(categories, type=wanted)
