"""The `python` step: a user's function, found by its import path, and called only where the caller allows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from lightmill.errors import JobError, RequestError
from lightmill.models.functions import load_function
from lightmill.models.preparation.columns import column_of, with_column
from lightmill.records.preparation import MadeColumn, Python, Step


def check_functions(declared: Sequence[Step], *, allowed: bool) -> None:
    """Import the functions of all `python` steps in this process; see `PythonStep` for the errors."""
    for step in declared:
        if isinstance(step, Python):
            PythonStep(step, allowed=allowed)


class PythonStep:
    """A `python` step made ready to call: a table of its columns goes in, the columns that it makes come out."""

    def __init__(self, step: Python, *, allowed: bool) -> None:
        """Import the function.

        Raises:
            RequestError: Python steps are not allowed here, or there is no such module or function.
        """
        self._step = step
        found = load_function(step.function, "Step 'python'", allowed=allowed)
        self._function: Callable[[pa.Table], Any] = found

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the columns that the function makes of it.

        Raises:
            JobError: The function raised an error.
            RequestError: A column is missing, or the function gave no table, another number of rows, or other columns
                or types than declared.
        """
        name = self._step.function
        given = pa.table({column: column_of(table, column, "python") for column in self._step.columns})
        try:
            made = self._function(given)
        except Exception as exc:  # a user's function may raise anything
            raise JobError(f"Step 'python': {name!r} raised {type(exc).__name__}: {exc}") from exc
        if not isinstance(made, pa.Table):
            raise RequestError(f"Step 'python': {name!r} must return a pyarrow.Table, not {type(made).__name__}.")
        if len(made) != len(table):
            raise RequestError(
                f"Step 'python': {name!r} returned {len(made)} rows for {len(table)}; it must keep every row. "
                "Use `filter` to remove rows."
            )
        declared = [column.name for column in self._step.makes]
        if sorted(made.column_names) != sorted(declared):
            raise RequestError(
                f"Step 'python': {name!r} returned the columns {made.column_names}, but `makes` declares {declared}."
            )
        for column in self._step.makes:
            table = with_column(table, column.name, self._typed(made.column(column.name), column))
        return table

    def _typed(self, values: pa.ChunkedArray, column: MadeColumn) -> pa.ChunkedArray | pa.Array:
        scalar = pa.type_for_alias(column.dtype)
        if column.shape is None:
            if values.type != scalar:
                raise self._wrong(column, values.type, str(scalar))
            return values
        wanted = pa.fixed_shape_tensor(scalar, column.shape)
        if values.type == wanted:
            return values
        flat = pa.list_(scalar, math.prod(column.shape))
        if values.type.equals(flat):
            return pa.ExtensionArray.from_storage(wanted, values.cast(flat).combine_chunks())
        raise self._wrong(column, values.type, f"{wanted}, or lists of {flat.list_size} {scalar}")

    def _wrong(self, column: MadeColumn, found: pa.DataType, wanted: str) -> RequestError:
        return RequestError(
            f"Step 'python': {self._step.function!r} gave column {column.name!r} as {found}; `makes` declares {wanted}."
        )
