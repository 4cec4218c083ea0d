"""128-bit digests of rows, vectorized: equal rows have equal digests on every machine, however they are chunked.

Fixed-width values are bits, text and bytes are sums of mixed 8-byte words (Zobrist hashing over positions), and the
columns of a row are chained. Mixing is SplitMix64's finalizer (G. L. Steele, D. Lea and C. H. Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014). This finds equal rows; it is no defence against somebody who
constructs different rows with equal digests. The function is frozen: splits by hash depend on it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

pc: Any = compute  # pyarrow makes these functions at import; type checkers do not see them

Words = npt.NDArray[np.uint64]
_SLICE_ROWS = 1 << 15
_PEEK = 1 << 11
_LANES = (
    (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1342543DE82EF95)),
    (np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0xAF251AF3B0F025B5)),
)
_NULL = np.uint64(0x5851F42D4C957F2D)
_NULL_2 = np.uint64(0x14057B7EF767814F)


def mix64(words: Words) -> Words:
    """Return SplitMix64's finalizer of each word: a bijection in which every input bit stirs all others."""
    out = words ^ (words >> np.uint64(30))
    out *= np.uint64(0xBF58476D1CE4E5B9)
    out ^= out >> np.uint64(27)
    out *= np.uint64(0x94D049BB133111EB)
    out ^= out >> np.uint64(31)
    return out


def row_digests(columns: Sequence[pa.Array], rows: int) -> Words:
    """Return uint64 [rows, 2], a digest of the values of `columns` (each of `rows` values) in that order.

    -0.0 equals 0.0, all NaN are equal, and null equals null and nothing else. A value's type counts: 1 and 1.0 differ.
    """
    out = np.empty((rows, 2), dtype=np.uint64)
    words = [value_words(column) for column in columns]
    for first in range(0, rows, _SLICE_ROWS):
        part = slice(first, min(first + _SLICE_ROWS, rows))
        for lane, (salt, factor) in enumerate(_LANES):
            state = np.full(part.stop - part.start, salt)
            for pair in words:
                state ^= pair[lane][part]
                state *= factor
                state ^= state >> np.uint64(29)
            out[part, lane] = mix64(state)
    return out


def value_words(column: pa.Array) -> tuple[Words, Words]:
    """Return two words for each value of a column, uint64 [rows] each; one array twice for fixed widths."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        if _repeats_much(column):
            encoded = column.dictionary_encode()
            place = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
            first, second = (words[place] for words in _text_words(encoded.dictionary))
        else:
            first, second = _text_words(column)
    elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        first, second = _list_words(column)
    else:
        first = second = _fixed_words(column)
    if not column.null_count:
        return first, second
    absent = column.is_null().to_numpy(zero_copy_only=False)
    return np.where(absent, _NULL, first), np.where(absent, _NULL_2, second)


def _repeats_much(column: pa.Array) -> bool:
    """Return whether hashing each distinct value once looks cheaper; either way gives the same words."""
    head = column[:_PEEK].drop_null()
    return len(column) > _PEEK and 0 < len(head.unique()) <= _PEEK // 4


def _fixed_words(column: pa.Array) -> Words:
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), _NULL)
    if pa.types.is_date32(kind):
        column = column.cast(pa.int32())
    elif pa.types.is_timestamp(kind):
        column = column.cast(pa.int64())
    if column.null_count:
        column = pc.fill_null(column, False if pa.types.is_boolean(kind) else pa.scalar(0, column.type))
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f":
        wide = values.astype(np.float64) + 0.0
        wide[np.isnan(wide)] = np.nan
        return wide.view(np.uint64)
    return values.astype(np.int64).view(np.uint64) if values.dtype.kind in "ib" else values.astype(np.uint64)


def _text_words(column: pa.Array) -> tuple[Words, Words]:
    """Return two sums over the 8-byte words of each text, mixed with the word's position and the text's length."""
    rows = len(column)
    if not rows:
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint64)
    _, offsets_buffer, data = column.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[column.offset : column.offset + rows + 1].astype(np.int64)
    lengths = np.diff(offsets)
    used = np.frombuffer(data, dtype=np.uint8)[offsets[0] : offsets[-1]] if data else np.empty(0, dtype=np.uint8)
    padded = np.concatenate([used, np.zeros(8, dtype=np.uint8)])
    # Every 8 bytes at every offset, as little-endian words, without a copy.
    sliding = np.ndarray((len(padded) - 7,), dtype="<u8", buffer=padded, strides=(1,))
    counts = (lengths + 7) >> 3
    ends = np.cumsum(counts)
    position = np.arange(int(ends[-1]), dtype=np.int64) - np.repeat(ends - counts, counts)
    starts = np.repeat(offsets[:-1] - offsets[0], counts) + position * 8
    words = sliding[starts]
    tail = np.repeat(lengths, counts) - position * 8
    short = tail < 8
    words[short] &= (np.uint64(1) << (tail[short].astype(np.uint64) * np.uint64(8))) - np.uint64(1)
    return _sums(words, position, counts, lengths)


def _list_words(column: pa.Array) -> tuple[Words, Words]:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    first, second = value_words(pc.list_flatten(column))
    ends = np.cumsum(lengths)
    position = np.arange(len(first), dtype=np.int64) - np.repeat(ends - lengths, lengths)
    one = _sums(first, position, lengths, lengths)
    return one if first is second else (one[0], _sums(second, position, lengths, lengths)[1])


def _sums(
    words: Words, position: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> tuple[Words, Words]:
    """Return for each row two sums over its `counts` words, each mixed with its position, and the row's length."""
    place = mix64(position.view(np.uint64) + np.uint64(1))
    filled = counts > 0
    starts = (np.cumsum(counts) - counts)[filled]
    found: list[Words] = []
    for salt, _ in _LANES:
        mixed = mix64((words + salt) ^ place) if len(words) else words
        total = np.zeros(len(counts), dtype=np.uint64)
        if len(starts):
            total[filled] = np.add.reduceat(mixed, starts)
        found.append(mix64(total ^ (lengths.astype(np.uint64) * salt)))
    return found[0], found[1]


if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("Lightmill's row digests need a little-endian machine.")
