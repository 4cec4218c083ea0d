"""Tensors as bytes: what follows the JSON in the binary extension, and the raw contents of gRPC.

Elements are little-endian and row-major; an element of BYTES has its length before it, in 4 bytes. Source: Triton,
`extension_binary_data.md`. An array read from a body is a view of it where its bytes lie as the processor wants them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from lightmill.errors import RequestError
from lightmill.serving.fitting import checked_datatype
from lightmill.serving.tensors import BYTES, DTYPES, Array, Body, Tensor, short

_LENGTH = struct.Struct("<I")
COPIED_BYTES = 1 << 16  # up to which a copy costs less than what it saves
Block = bytes | memoryview


class Blocks:
    """The tensors behind a request's JSON, taken one after the other; `json` is the JSON."""

    def __init__(self, body: Body, json_bytes: int) -> None:
        """Divide a body.

        Raises:
            RequestError: The body is shorter than its JSON should be.
        """
        if json_bytes > len(body):
            raise RequestError(
                f"Header Inference-Header-Content-Length says {json_bytes}, but the body has {len(body)} bytes."
            )
        self._rest = memoryview(body)[json_bytes:]
        self._at = 0
        self.json = bytes(memoryview(body)[:json_bytes])

    def take(self, size: Any, shape: Sequence[int], datatype: str, field: str) -> Array:
        """Return the next tensor.

        Raises:
            RequestError: The bytes are fewer than `size`, or not what shape and datatype need.
        """
        if type(size) is not int or size < 0:
            raise RequestError(
                f"Field {field}.parameters.binary_data_size must be a whole number from 0; given {short(size)}."
            )
        left = len(self._rest) - self._at
        if size > left:
            raise RequestError(
                f"Field {field}.parameters.binary_data_size is {size}, but only {left} bytes are left in the body."
            )
        block = self._rest[self._at : self._at + size]
        self._at += size
        return decode(block, shape, datatype, field)

    def finish(self) -> None:
        """Check that every byte was taken.

        Raises:
            RequestError: More bytes came than the inputs declare.
        """
        left = len(self._rest) - self._at
        if left:
            raise RequestError(
                f"The body has {left} bytes more than the inputs' binary_data_size declare in all ({self._at})."
            )


def decode(block: memoryview | bytes, shape: Sequence[int], datatype: str, field: str) -> Array:
    """Return the array that bytes hold.

    Raises:
        RequestError: They are not what shape and datatype need.
    """
    dtype = DTYPES[checked_datatype(field, datatype)]
    count = math.prod(shape)
    if datatype == BYTES:
        return _texts(block, count, field).reshape(tuple(shape))
    expected = count * dtype.itemsize
    if len(block) != expected:
        raise RequestError(
            f"Field {field} has {len(block)} bytes of data, but {datatype} of shape {list(shape)} needs {expected}."
        )
    array = np.frombuffer(block, dtype=dtype).reshape(tuple(shape))
    if dtype.kind == "b" and block and int(array.view(np.uint8).max()) > 1:
        raise RequestError(f"Field {field} has a byte other than 0 and 1 in data of BOOL.")
    if not array.flags.aligned or len(block) <= COPIED_BYTES:
        return array.copy()
    return array


def _texts(block: memoryview | bytes, count: int, field: str) -> Array:
    if count * _LENGTH.size > len(block):
        raise RequestError(
            f"Field {field} has {len(block)} bytes of data, but {count} elements of BYTES need {count * 4} for their "
            "lengths alone."
        )
    found = np.empty(count, dtype=object)
    at = 0
    for place in range(count):
        start = at + _LENGTH.size
        if start > len(block):
            raise RequestError(f"Field {field} ends in the length of element {place} of {count}.")
        (length,) = _LENGTH.unpack_from(block, at)
        at = start + length
        if at > len(block):
            raise RequestError(
                f"Field {field}: element {place} has {length} bytes, but only {len(block) - start} are left."
            )
        found[place] = bytes(block[start:at])
    if at != len(block):
        raise RequestError(f"Field {field} has {len(block) - at} bytes after its {count} elements.")
    return found


def encode(tensor: Tensor) -> Block:
    """Return a tensor's bytes, without a copy where it lies in order."""
    array = tensor.array
    if tensor.datatype == BYTES:
        parts: list[bytes] = []
        for value in array.reshape(-1).tolist():
            data = value.encode() if isinstance(value, str) else value
            parts += (_LENGTH.pack(len(data)), data)
        return b"".join(parts)
    ordered: Any = np.ascontiguousarray(array, dtype=DTYPES[tensor.datatype])
    return memoryview(ordered.reshape(-1).view(np.uint8)) if ordered.size else b""


def size_of(block: Block) -> int:
    """Return how many bytes a block has."""
    return block.nbytes if isinstance(block, memoryview) else len(block)
