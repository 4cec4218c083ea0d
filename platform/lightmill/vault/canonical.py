"""One value, one sequence of bytes: what is signed, authenticated or digested is written in this form.

UTF-8, keys sorted by code point, no white space, no escapes that are not required, no NaN or infinity.
Reading is strict and bounded, since the bytes come from the store: whatever is odd is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any, NoReturn

from lightmill.errors import IntegrityError, RequestError


def canonical_json(value: object) -> bytes:
    """Return the canonical bytes of a value made of dict, list, str, int, float, bool and None.

    Raises:
        RequestError: When the value holds something else, NaN, infinity or a lone surrogate.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise RequestError(f"This value has no canonical JSON form ({exc}); use plain JSON types") from exc


def parse_json(data: bytes, max_bytes: int, *, name: str = "A JSON document") -> dict[str, Any]:
    """Read one JSON object of at most `max_bytes`, which is checked before anything is parsed.

    Args:
        data: The bytes as they were stored.
        max_bytes: The limit that bounds time and memory.
        name: What the error calls the document.

    Raises:
        IntegrityError: When it is too large, not UTF-8, not JSON, not an object at the top, nested too
            deeply, or holds a key twice, NaN, infinity or a lone surrogate.
    """
    if len(data) > max_bytes:
        raise IntegrityError(f"{name} has {len(data)} bytes, more than the limit of {max_bytes}; not read")
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
        if b"\\u" in data:  # the only way to write a lone surrogate
            canonical_json(value)
    except (ValueError, RecursionError, RequestError) as exc:
        raise IntegrityError(f"{name} is not the strict JSON that was written; it is damaged") from exc
    if not isinstance(value, dict):
        raise IntegrityError(f"{name} is not a JSON object; it is damaged")
    return value


def encode_base64(data: bytes) -> str:
    """Return standard base64 with padding (RFC 4648, section 4)."""
    return base64.b64encode(data).decode()


def decode_base64(text: str, *, name: str = "A base64 value") -> bytes:
    """Read standard base64 and accept one spelling only.

    Raises:
        IntegrityError: On foreign characters, missing padding or stray bits at the end.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = None
    if data is None or encode_base64(data) != text:
        raise IntegrityError(f"{name} is not canonical base64; it is damaged")
    return data


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number
