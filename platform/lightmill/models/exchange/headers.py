"""The header of a safetensors file, read strictly and with limits, since the file comes from anywhere.

    8 bytes   length n of the header, little-endian
    n bytes   JSON: tensor name to dtype, shape and [begin, end) in the data; "__metadata__" to text
    the rest  data: the tensors' bytes without gaps and without overlap

Source: https://github.com/huggingface/safetensors#format. What that leaves open is refused here: keys that
appear twice, holes, data that no tensor owns, and dtypes that cannot be loaded back.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

from lightmill.errors import RequestError

HEADER_MAX_BYTES = 16 << 20
MAX_TENSORS = 100_000
MAX_NAME_CHARS = 1024
MAX_DIMENSIONS = 16
MAX_DATA_BYTES = 1 << 50
METADATA = "__metadata__"
LENGTH = struct.Struct("<Q")

DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "I16": 2,
    "I32": 4,
    "I64": 8,
    "F16": 2,
    "BF16": 2,
    "F32": 4,
    "F64": 8,
}
"""The dtypes that the registry loads back, with their sizes in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One tensor's place: its dtype's name, its shape and its size in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A checked header: its bytes as they were, and the tensors in the order of their data."""

    raw: bytes
    slots: tuple[Slot, ...]

    @property
    def data_bytes(self) -> int:
        """The size of the data that follows."""
        return sum(slot.nbytes for slot in self.slots)


def header_length(first: bytes, file_bytes: int | None, name: str) -> int:
    """Return the header's length from a file's first 8 bytes.

    Raises:
        RequestError: The file is shorter than its header, or the header is larger than is read.
    """
    if len(first) != LENGTH.size:
        raise _refusal(name, "it is shorter than 8 bytes")
    length: int = LENGTH.unpack(first)[0]
    if length > HEADER_MAX_BYTES:
        raise _refusal(name, f"its header claims {length} bytes, more than the limit of {HEADER_MAX_BYTES}")
    if length < 2 or (file_bytes is not None and LENGTH.size + length > file_bytes):
        raise _refusal(name, f"its header claims {length} bytes, which the file does not have")
    return length


def parse_header(raw: bytes, data_bytes: int | None, name: str) -> Header:
    """Check a header against the size of the data, when that is known.

    Raises:
        RequestError: It is not a header that safetensors allows, or names a dtype that cannot be loaded back.
    """
    if not raw.startswith(b"{"):
        raise _refusal(name, "its header is not JSON")
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise _refusal(name, f"its header is not strict JSON ({str(exc)[:80]})") from None
    _check_metadata(found.pop(METADATA, {}), name)
    if len(found) > MAX_TENSORS:
        raise _refusal(name, f"it lists {len(found)} tensors, more than the limit of {MAX_TENSORS}")
    placed = sorted((_place(key, value, name) for key, value in found.items()), key=lambda item: item[:2])
    end = 0
    for begin, stop, slot in placed:
        if begin != end:
            raise _refusal(name, f"the data of tensor {slot.name!r} begins at {begin}, not at {end}")
        end = stop
    if data_bytes is not None and end != data_bytes:
        raise _refusal(name, f"its tensors have {end} bytes, its data {data_bytes}")
    return Header(raw=raw, slots=tuple(slot for _, _, slot in placed))


def _place(key: str, value: Any, name: str) -> tuple[int, int, Slot]:
    """Return (begin, end, tensor) of one entry."""
    what = f"tensor {key[:80]!r}"
    if not key or len(key) > MAX_NAME_CHARS or not key.isprintable():
        raise _refusal(name, f"{what} has an empty, long or unprintable name")
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _refusal(name, f"{what} does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _refusal(name, f"{what} has dtype {str(dtype)[:20]!r}; known are {', '.join(DTYPE_BYTES)}")
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS or not _naturals(offsets) or len(offsets) != 2:
        raise _refusal(name, f"{what} has a malformed shape or malformed offsets")
    nbytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if nbytes != offsets[1] - offsets[0]:
        raise _refusal(name, f"{what} of {dtype} {shape} needs {nbytes} bytes; its offsets are {offsets}")
    return offsets[0], offsets[1], Slot(name=key, dtype=dtype, shape=tuple(shape), nbytes=nbytes)


def _naturals(value: Any) -> bool:
    """Whether this is a list of numbers from 0, small enough for their products to stay so."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= MAX_DATA_BYTES for item in value)


def _check_metadata(value: Any, name: str) -> None:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _refusal(name, f"its {METADATA} is not a map of text to text")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _refusal(name: str, why: str) -> RequestError:
    return RequestError(f"{name} is no safetensors file that can be imported: {why}.")
