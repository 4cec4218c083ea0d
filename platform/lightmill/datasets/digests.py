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
Ints = npt.NDArray[np.int64]
_SLICE_ROWS = 1 << 15
_TILE_ROWS = 1 << 13
_PEEK = 1 << 11
_SHORT = 16
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], dtype=np.uint64)
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


_PLACES = mix64(np.arange(1, _SHORT + 1, dtype=np.uint64))


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
    first, second = _words(column, 2)
    if not column.null_count:
        return first, second
    absent = column.is_null().to_numpy(zero_copy_only=False)
    return np.where(absent, _NULL, first), np.where(absent, _NULL_2, second)


def distinct_words(column: pa.Array) -> Words:
    """Return the first of `value_words` of every value that is there, at least once for each different value."""
    if _is_text(column.type) and _distinct_in_head(column) <= _PEEK * 3 // 4:
        column = column.unique()
    words = _words(column, 1)[0]
    return words[column.is_valid().to_numpy(zero_copy_only=False)] if column.null_count else words


def _words(column: pa.Array, lanes: int) -> list[Words]:
    """Return the first `lanes` words of each value; those of null are of no meaning."""
    kind = column.type
    if _is_text(kind):
        if len(column) > _PEEK and 0 < _distinct_in_head(column) <= _PEEK // 4:  # hash each once; the same words
            encoded = column.dictionary_encode()
            place = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
            return [words[place] for words in _text_words(encoded.dictionary, lanes)]
        return _text_words(column, lanes)
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return _list_words(column, lanes)
    return [_fixed_words(column)] * lanes


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_binary(kind)


def _distinct_in_head(column: pa.Array) -> int:
    """Return how many different values the first rows have, which tells how often values come again."""
    return len(column[:_PEEK].drop_null().unique())


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
        wide = values.astype(np.float64, copy=False) + 0.0
        wide[np.isnan(wide)] = np.nan
        return wide.view(np.uint64)
    if values.dtype.kind in "ib":
        return values.astype(np.int64, copy=False).view(np.uint64)
    return values.astype(np.uint64, copy=False)


def _text_words(column: pa.Array, lanes: int) -> list[Words]:
    """Return sums over the 8-byte words of each text, mixed with the word's position and the text's length."""
    rows = len(column)
    if not rows:
        return [np.empty(0, dtype=np.uint64)] * lanes
    _, offsets_buffer, data = column.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[column.offset : column.offset + rows + 1].astype(np.int64)
    lengths = np.diff(offsets)
    used = np.frombuffer(data, dtype=np.uint8)[offsets[0] : offsets[-1]] if data else np.empty(0, dtype=np.uint8)
    padded = np.concatenate([used, np.zeros(8, dtype=np.uint8)])
    # Every 8 bytes at every offset, as little-endian words, without a copy.
    sliding = np.ndarray((len(padded) - 7,), dtype="<u8", buffer=padded, strides=(1,))
    starts = offsets[:-1] - offsets[0]
    totals = [np.zeros(rows, dtype=np.uint64) for _ in range(lanes)]
    for first in range(0, rows, _TILE_ROWS):
        tile = slice(first, first + _TILE_ROWS)
        _add_short(sliding, starts[tile], lengths[tile], [total[tile] for total in totals])
    _add_long(sliding, starts, lengths, totals)
    return _finished(totals, lengths)


def _add_short(sliding: Words, starts: Ints, lengths: Ints, totals: list[Words]) -> None:
    """Add the first `_SHORT` words of each text, one position after the other: no arrays of all words."""
    rows = np.flatnonzero(lengths > 0)
    for position in range(_SHORT):
        if position:
            rows = rows[lengths[rows] > 8 * position]
        if not len(rows):
            return
        words = sliding[starts[rows] + 8 * position]
        words &= _MASKS[np.minimum(lengths[rows] - 8 * position, 8)]
        for total, (salt, _) in zip(totals, _LANES, strict=False):
            total[rows] += mix64((words + salt) ^ _PLACES[position])


def _add_long(sliding: Words, starts: Ints, lengths: Ints, totals: list[Words]) -> None:
    """Add the words behind the first `_SHORT` of each text."""
    rows = np.flatnonzero(lengths > 8 * _SHORT)
    if not len(rows):
        return
    counts = ((lengths[rows] + 7) >> 3) - _SHORT
    ends = np.cumsum(counts)
    position = np.arange(int(ends[-1]), dtype=np.int64) - np.repeat(ends - counts, counts) + _SHORT
    words = sliding[np.repeat(starts[rows], counts) + position * 8]
    words &= _MASKS[np.minimum(np.repeat(lengths[rows], counts) - position * 8, 8)]
    for total, sums in zip(totals, _sums([words] * len(totals), position, counts), strict=True):
        total[rows] += sums


def _list_words(column: pa.Array, lanes: int) -> list[Words]:
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    words = value_words(pc.list_flatten(column))[:lanes]
    ends = np.cumsum(counts)
    position = np.arange(len(words[0]), dtype=np.int64) - np.repeat(ends - counts, counts)
    return _finished(_sums(words, position, counts), counts)


def _sums(lanes: Sequence[Words], position: Ints, counts: Ints) -> list[Words]:
    """Return for each row the sum over its `counts` words, each mixed with its position; for each lane its own."""
    place = mix64(position.view(np.uint64) + np.uint64(1))
    filled = counts > 0
    starts = (np.cumsum(counts) - counts)[filled]
    found: list[Words] = []
    for words, (salt, _) in zip(lanes, _LANES, strict=False):
        total = np.zeros(len(counts), dtype=np.uint64)
        if len(starts):
            total[filled] = np.add.reduceat(mix64((words + salt) ^ place), starts)
        found.append(total)
    return found


def _finished(totals: list[Words], lengths: Ints) -> list[Words]:
    """Return the sums mixed with the length of what was summed up."""
    sizes = lengths.astype(np.uint64)
    return [mix64(total ^ (sizes * salt)) for total, (salt, _) in zip(totals, _LANES, strict=False)]


if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("Lightmill's row digests need a little-endian machine.")
