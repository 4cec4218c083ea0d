"""Rows of named columns as a model takes them: from requests to tables, and through the fitted preparation to features.

No torch and no Ray: serving uses it before rows are batched, and batch inference as well.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.applying import Preparation, Resources
from lightmill.records.fitted import InputColumn, TabularPreparation
from lightmill.records.preparation import Python
from lightmill.records.signature import Datatype, TensorSpec

FEATURES = "features"
SERVED_BY = "LIGHTMILL_SERVE_PYTHON_STEPS"
_DATATYPES: dict[str, Datatype] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint16": "INT32",
    "uint32": "INT64",
    "uint64": "INT64",
    "float32": "FP32",
    "float64": "FP64",
}
_TYPES = {"date": pa.date32(), "timestamp": pa.timestamp("us", tz="UTC"), "binary": pa.binary(), "string": pa.string()}


def input_specs(preparation: TabularPreparation) -> tuple[TensorSpec, ...]:
    """Return one input a column: a number by its type, all else as BYTES; the first dimension is the batch."""
    return tuple(
        TensorSpec(
            name=column.name,
            datatype=_DATATYPES.get(_scalar(column.dtype), "BYTES"),
            shape=(-1, *(column.shape or ((-1,) if column.dtype.startswith("list") else ()))),
        )
        for column in preparation.columns
    )


class TabularInputs:
    """Turns columns of values into features. Thread-safe: nothing of it changes."""

    def __init__(self, record: TabularPreparation, *, allow_python: bool = False) -> None:
        """Make the preparation ready; `allow_python` lets its `python` steps call functions.

        Raises:
            RequestError: A step needs a package that is not installed, or calls a function and may not.
        """
        if not record.fitted.portable and not allow_python:
            calls = next(step.function for step in record.fitted.steps if isinstance(step, Python))
            raise RequestError(
                f"The model's preparation calls the function {calls!r}, and serving runs no code of a model's author "
                f"unless it is told to. Where that code is trusted, install it on every node, set {SERVED_BY}=true and "
                "start the platform again."
            )
        self._columns = {column.name: column for column in record.columns}
        self._preparation = Preparation(record.fitted, resources=Resources(allow_python=allow_python))
        self._width = record.width

    @property
    def width(self) -> int:
        """Return the number of features of a row."""
        return self._width

    def table(self, values: Mapping[str, Sequence[Any]]) -> pa.Table:
        """Return a table of all columns from one list of values each; None is a missing one, binary as text is base64.

        Raises:
            RequestError: A column is absent or unknown, or a value is not of its type; the message names the column.
        """
        missing = [name for name in self._columns if name not in values]
        unknown = [name for name in values if name not in self._columns]
        if missing or unknown:
            what = f"lacks {missing[0]!r}" if missing else f"has an unknown column {unknown[0]!r}"
            raise RequestError(f"The input {what}; the model takes the columns {', '.join(self._columns)}.")
        arrays = {name: _array(column, values[name]) for name, column in self._columns.items()}
        rows = {name: len(array) for name, array in arrays.items()}
        if len(set(rows.values())) > 1:
            raise RequestError(f"The columns have different numbers of rows: {rows}.")
        return pa.table(arrays)

    def features(self, table: pa.Table) -> npt.NDArray[np.float32]:
        """Return float32 [rows, width].

        Raises:
            RequestError: A value cannot be prepared, such as a missing one that nothing imputes.
        """
        column = self._preparation.apply(table).column(FEATURES).combine_chunks()
        array = column.storage if isinstance(column, pa.FixedShapeTensorArray) else column
        return array.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(table), self._width)


def _scalar(dtype: str) -> str:
    return dtype[dtype.index("<") + 1 : -1] if "<" in dtype else dtype


def _arrow(column: InputColumn) -> pa.DataType:
    scalar = _scalar(column.dtype)
    kind = _TYPES.get(scalar) or pa.type_for_alias(scalar)
    if column.dtype.startswith("tensor"):
        return pa.list_(kind, int(np.prod(column.shape or ())))
    return pa.list_(kind) if column.dtype.startswith("list") else kind


def _array(column: InputColumn, values: Sequence[Any]) -> pa.Array:
    kind = _arrow(column)
    try:
        if column.dtype == "binary":
            values = [_binary(value) for value in values]
        elif column.dtype in ("string", "date", "timestamp"):
            values = [value.decode() if isinstance(value, bytes) else value for value in values]
        if column.dtype in ("date", "timestamp"):
            values = [None if value is None else _time(value) for value in values]
        if pa.types.is_fixed_size_list(kind):
            values = [None if value is None else np.asarray(value).reshape(-1).tolist() for value in values]
        return pa.array(list(values), type=kind)
    except binascii.Error as exc:
        raise RequestError(f"Column {column.name!r} holds bytes, written as base64.") from exc
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as exc:
        raise RequestError(f"Column {column.name!r} holds a value that is no {column.dtype}.") from exc


def _binary(value: str | bytes | None) -> bytes | None:
    """Return bytes as they are, and of text what it writes as base64."""
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


def _time(value: str | date) -> datetime | date:
    """Read ISO 8601, or take a time as it is; a time without a zone is in UTC."""
    found = value if isinstance(value, date) else datetime.fromisoformat(value)
    if not isinstance(found, datetime):
        return found
    return found if found.tzinfo else found.replace(tzinfo=UTC)
