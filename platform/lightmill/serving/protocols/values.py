"""JSON values as arrays: types are checked before NumPy sees a list, which would make an array of anything."""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any

import numpy as np
import orjson

from lightmill.errors import RequestError
from lightmill.serving.tensors import BF16, DTYPES, FP16, Array, Body, kind_of, short

_FITTING: dict[str, frozenset[type]] = {
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({int, float}),
    "O": frozenset({str, bytes}),
}
PACKED = 4096  # values up to which struct is faster than NumPy


def load(body: Body) -> Any:
    """Return the value of a JSON text.

    Raises:
        RequestError: It is no JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise RequestError(f"The body is not valid JSON: {exc}.") from exc


def array_of(data: list[Any], datatype: str, field: str) -> Array:
    """Return an array of a flat or nested list of values, with the list's nesting as its shape.

    Raises:
        RequestError: The list is ragged, or a value is none of the datatype.
    """
    dtype = DTYPES[datatype]
    if datatype in (FP16, BF16):
        raise RequestError(f"Field {field}.data: {datatype} has no form in JSON; send it as binary data, or send FP32.")
    if not data:
        return np.empty(0, dtype=dtype)
    # A batch of one row is what small models are mostly asked with.
    row = data[0] if len(data) == 1 and type(data[0]) is list else data
    kinds = set(map(type, row))
    fitting = _FITTING[dtype.kind]
    if list in kinds or not kinds <= fitting:
        if not leaf_types(data) <= fitting:
            raise RequestError(
                f"Field {field}.data must hold {datatype} values only; it holds something else, such as "
                f"{short(_first_odd(data, fitting))}."
            )
    elif datatype == "FP32" and len(row) <= PACKED:
        return _packed(row, field).reshape((1, len(row)) if row is not data else -1)
    return _converted(data, dtype, datatype, field)


def _packed(row: list[Any], field: str) -> Array:
    try:
        return np.frombuffer(bytearray(struct.pack(f"<{len(row)}f", *row)), dtype=DTYPES["FP32"])
    except (OverflowError, struct.error) as exc:
        raise RequestError(f"Field {field}.data holds a value that FP32 cannot hold.") from exc


def _converted(data: list[Any], dtype: np.dtype[Any], datatype: str, field: str) -> Array:
    try:
        with np.errstate(over="ignore"):
            found = np.array(data, dtype=dtype)
    except OverflowError as exc:
        if dtype.kind in "iu":
            limits: Any = np.iinfo(dtype)
            raise RequestError(
                f"Field {field}.data holds a value outside {limits.min} to {limits.max}, the range of {datatype}."
            ) from exc
        raise RequestError(f"Field {field}.data holds a value that {datatype} cannot hold.") from exc
    except (ValueError, TypeError) as exc:
        raise RequestError(f"Field {field}.data is ragged; every row must have the same length.") from exc
    if found.dtype.kind == "O" and any(type(value) is list for value in found.flat):
        raise RequestError(f"Field {field}.data is ragged; every row must have the same length.")
    return found


def rows_of(data: list[Any]) -> Array:
    """Return the rows of a named column, which may be missing values or lists, as they are."""
    return np.fromiter(data, dtype=object, count=len(data))


def leaf_types(data: list[Any]) -> set[type]:
    """Return the types of all values below nested lists."""
    found: set[type] = set()
    waiting = [data]
    while waiting:
        row = waiting.pop()
        kinds = set(map(type, row))
        if list in kinds:
            waiting.extend(value for value in row if type(value) is list)
            kinds.discard(list)
        found |= kinds
    return found


def decoded(value: Any, field: str) -> Any:
    """Return a JSON value in which every object `{"b64": text}` is the bytes that the text writes.

    Raises:
        RequestError: A text is no base64.
    """
    if type(value) is list:
        return [decoded(each, field) if type(each) in (list, dict) else each for each in value]
    if type(value) is dict and value.keys() == {"b64"}:
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError, TypeError) as exc:
            raise RequestError(f"Field {field} holds {short(value)}, whose text is no base64.") from exc
    return value


def listed(array: Array, field: str) -> list[Any]:
    """Return an array as nested lists that JSON can hold; bytes become text.

    Raises:
        RequestError: Bytes are no UTF-8.
    """
    return _texts(array.tolist(), field) if array.dtype.kind == "O" else array.tolist()


def _texts(value: Any, field: str) -> Any:
    if type(value) is list:
        return [_texts(each, field) for each in value]
    if type(value) is not bytes:
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise RequestError(
            f"Output {field} holds bytes that are no text in UTF-8, which JSON cannot hold; ask for binary data."
        ) from exc


def dump(value: Any) -> bytes:
    """Return a value as JSON; arrays of numbers must be contiguous. NaN and infinity become null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def as_object(value: Any, what: str = "The body") -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        RequestError: It is something else.
    """
    if type(value) is not dict:
        raise RequestError(f"{what} must be a JSON object, but is {kind_of(value)}.")
    return value


def _first_odd(data: object, fitting: frozenset[type]) -> object:
    """Return the first leaf that does not fit, to show it."""
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(reversed(value))
        elif type(value) not in fitting:
            return value
    return data
