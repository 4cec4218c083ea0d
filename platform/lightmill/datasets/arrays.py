"""Small questions to Arrow arrays that several modules ask."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pyarrow import compute

from lightmill.errors import RequestError

pc: Any = compute  # pyarrow makes these functions at import; type checkers do not see them


def single(column: pa.ChunkedArray, name: str) -> pa.Array:
    """Return a column as one array.

    Raises:
        RequestError: It holds more than 2 GiB of text.
    """
    if column.num_chunks == 1:
        return column.chunk(0)  # combining would copy it
    found = column.combine_chunks()
    if not isinstance(found, pa.ChunkedArray):
        return found
    if found.num_chunks > 1:
        raise RequestError(f"A block holds more than 2 GiB in column {name!r}; read the source in smaller blocks.")
    return found.chunk(0) if found.num_chunks else pa.array([], type=found.type)


def lengths(values: pa.Array) -> pa.Array:
    """Return the length of each value: characters of text, bytes of binary, elements of lists."""
    if pa.types.is_string(values.type):
        return pc.utf8_length(values)
    return pc.binary_length(values) if pa.types.is_binary(values.type) else pc.list_value_length(values)
