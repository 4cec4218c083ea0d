"""Named tensors as every protocol means them: what adapters make of a request, and what they write an answer from.

Datatypes have the Open Inference Protocol's names. NumPy has no bfloat16, so BF16 stays in the 16 bits that it came in,
as uint16. BYTES is an array of objects, each `bytes`, or `str` where the protocol writes text. Rows of named columns,
in which a value may be missing or a list of any length, are one-dimensional arrays of objects, whatever their datatype.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lightmill.errors import RequestError
from lightmill.records.base import Record
from lightmill.records.signature import Signature

Array = npt.NDArray[Any]
Body = bytes | bytearray
Parameter = bool | int | float | str
Parameters = Mapping[str, Parameter]
BYTES = "BYTES"
BF16 = "BF16"
FP16 = "FP16"
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    FP16: np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    BF16: np.dtype("<u2"),
    BYTES: np.dtype(object),
}
# The first name of a dtype counts: uint16 is UINT16 unless somebody says BF16.
DATATYPES: dict[np.dtype[Any], str] = {dtype: name for name, dtype in reversed(DTYPES.items())}
MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor; `array` is of the dtype that `DTYPES` has for `datatype`, or of objects."""

    name: str
    datatype: str
    array: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedOutput:
    """An output that the caller asked for.

    `classes` > 0 asks for the likeliest that many as texts (the classification extension); `binary` says whether its
    data follows the JSON as bytes, None if the request as a whole decides.
    """

    name: str
    classes: int = 0
    binary: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """What was asked; no `outputs` means all. `priority` 0 is the default, 1 the highest; `timeout_s` may be none."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[WantedOutput, ...] = ()
    id: str | None = None
    parameters: Parameters = field(default_factory=dict)
    priority: int = 0
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferResponse:
    """What is answered, in the order that was asked for."""

    model: str
    version: str
    outputs: tuple[Tensor, ...]
    id: str | None = None


class ModelDescription(Record):
    """What one needs to know of a served model to write a request to it and to read its answer.

    `by_column`: the inputs are named columns of rows, in which a value may be missing. `classes` are the names of what
    a classifier tells apart.
    """

    name: str
    version: str
    signature: Signature
    by_column: bool = False
    classes: tuple[str, ...] = ()


def order_of(parameters: Parameters) -> tuple[int, float | None]:
    """Return the priority and the timeout in seconds that a request's parameters ask for; Triton's are microseconds.

    Raises:
        RequestError: One of them is no whole number from 0.
    """
    found = []
    for name in ("priority", "timeout"):
        value = parameters.get(name, 0)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            value = int(value)
        if type(value) is not int or value < 0:
            raise RequestError(f"Field parameters.{name} must be a whole number from 0; given {short(value)}.")
        found.append(value)
    priority, timeout = found
    return priority, timeout / MICROSECONDS if timeout else None


def widened(array: Array, datatype: str, wanted: str) -> Array:
    """Return an array of one datatype as another that holds all its values."""
    if datatype == BF16:  # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(DTYPES[wanted])


def short(value: object) -> str:
    """Return a value as a message shows it."""
    try:
        text = repr(value)
    except RecursionError:
        return "something nested too deep"
    return text if len(text) <= 60 else text[:57] + "..."


def kind_of(value: object) -> str:
    """Return what a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), "a number")


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a signature's shape as a message shows it."""
    return "[" + ", ".join("batch" if n == 0 and size == -1 else str(size) for n, size in enumerate(shape)) + "]"
