"""A 128-bit digest of each row, equal for equal rows however a table is cut; against accidents, not forgery."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.chance import Words, mixed
from lightmill.models.preparation.columns import column_of, is_text, one_array
from lightmill.models.preparation.kernels import pc

_LANES = (np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344))  # digits of pi
_NULL = np.uint64(0xA4093822299F31D0)


def row_digests(table: pa.Table, columns: Sequence[str]) -> Words:
    """Return a digest of the chosen columns of each row, uint64 [rows, 2].

    NULL equals NULL and NaN, 0.0 equals -0.0. Texts, bytes and lists are hashed by BLAKE2b, once for each different
    value, in a Python loop; numbers are mixed as words.

    Raises:
        RequestError: A column is missing, or of a type that cannot be compared.
    """
    found = np.empty((len(table), 2), dtype=np.uint64)
    found[:] = _LANES
    for name in columns:
        for words in _words(one_array(column_of(table, name, "deduplicate")), name):
            for lane in range(2):
                found[:, lane] = mixed(found[:, lane] * np.uint64(0x9E3779B97F4A7C15) + (words ^ _LANES[lane]))
    return found


def _words(column: pa.Array, name: str) -> list[Words]:
    """Return one or more words for each value, the same for equal values."""
    kind = column.type
    missing = np.asarray(column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False))
    if pa.types.is_null(kind):
        words = [np.zeros(len(column), dtype=np.uint64)]
    elif pa.types.is_floating(kind):
        values = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False) + 0.0
        words = [values.view(np.uint64)]
    elif pa.types.is_unsigned_integer(kind) or pa.types.is_boolean(kind):
        words = [pc.fill_null(column.cast(pa.uint64()), 0).to_numpy(zero_copy_only=False)]
    elif pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        if pa.types.is_date32(kind) or pa.types.is_time32(kind):
            column = column.cast(pa.int32())
        words = [pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False).view(np.uint64)]
    elif is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        words = _hashed(column.cast(pa.large_binary()))
    elif isinstance(kind, pa.FixedShapeTensorType) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        words = _hashed(pa.array([repr(value).encode() for value in column.to_pylist()], type=pa.large_binary()))
    else:
        raise RequestError(f"Step 'deduplicate': column {name!r} has type {kind}, which is not compared; leave it out.")
    words[0] = np.where(missing, _NULL, mixed(words[0]))
    return words


def _hashed(values: pa.Array) -> list[Words]:
    coded = values.dictionary_encode()
    digests = b"".join(hashlib.blake2b(value, digest_size=16).digest() for value in coded.dictionary.to_pylist())
    table: npt.NDArray[np.uint64] = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
    places = np.asarray(pc.fill_null(coded.indices, 0).to_numpy(zero_copy_only=False))
    if not len(table):
        return [np.zeros(len(values), dtype=np.uint64), np.zeros(len(values), dtype=np.uint64)]
    null = np.asarray(values.is_null().to_numpy(zero_copy_only=False))
    return [table[places, 0], np.where(null, np.uint64(0), table[places, 1])]
