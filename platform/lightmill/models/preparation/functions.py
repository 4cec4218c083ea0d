"""The `python` step: a function of an installed package, called only where the caller allows it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from lightmill.errors import JobError, RequestError
from lightmill.models.preparation.columns import ROW_ID


class PythonStep:
    """A function `package.module:function`, table to table, made ready to call."""

    def __init__(self, function: str, *, allowed: bool) -> None:
        """Import the function.

        Raises:
            RequestError: Python steps are not allowed here, or there is no such function.
        """
        self._name = function
        if not allowed:
            raise RequestError(
                f"Step 'python' calls {function!r}, and Python functions are not allowed here. Where the code is "
                "trusted, pass allow_python=True."
            )
        module, _, attribute = function.partition(":")
        try:
            found: Any = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as exc:
            raise RequestError(f"Step 'python': there is no function {function!r} here ({exc}). Install it.") from exc
        if not callable(found):
            raise RequestError(f"Step 'python': {function!r} is a {type(found).__name__}, not a function.")
        self._function: Callable[[pa.Table], Any] = found

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return what the function makes of a table.

        Raises:
            JobError: The function raised an error.
            RequestError: It returned no table, another number of rows, or other row ids.
        """
        try:
            made = self._function(table)
        except Exception as exc:  # a user's function may raise anything
            raise JobError(f"Step 'python': {self._name!r} raised {type(exc).__name__}: {exc}") from exc
        if not isinstance(made, pa.Table):
            raise RequestError(f"Step 'python': {self._name!r} must return a pyarrow.Table, not {type(made).__name__}.")
        if len(made) != len(table):
            raise RequestError(
                f"Step 'python': {self._name!r} returned {len(made)} rows for {len(table)}; it must keep every row. "
                "Use `filter` to remove rows."
            )
        if ROW_ID in table.column_names and (
            ROW_ID not in made.column_names or not made.column(ROW_ID).equals(table.column(ROW_ID))
        ):
            raise RequestError(f"Step 'python': {self._name!r} changed the column `row_id`; it must leave it as it is.")
        return made
