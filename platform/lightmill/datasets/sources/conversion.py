"""Values that become a column's declared type, or are said not to: never rounded, cut or turned into nulls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from lightmill.errors import RequestError

pc: Any = pyarrow.compute  # its functions are made at import, where no type checker sees them

_INTEGER = r"^(-?[0-9]+|-?0[xX][0-9a-fA-F]+)$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_NO_NUMBER = r"(?i)^[+-]?(inf|infinity|nan(\([a-z0-9_]*\))?)$"
_TRUE = ("1", "true", "TRUE", "True")
_FALSE = ("0", "false", "FALSE", "False")

Mask = npt.NDArray[np.bool_]


def parse_texts(texts: pa.Array, target: pa.DataType) -> tuple[pa.Array, Mask]:
    """Return strings as values of a type, as pyarrow reads CSV, and which of them do not convert (bool [rows]).

    A finite number that the type cannot hold (1e400) does not convert. Nulls stay null.
    """
    if pa.types.is_string(target) or pa.types.is_large_string(target):
        return texts.cast(target), np.zeros(len(texts), dtype=bool)
    if pa.types.is_binary(target) or pa.types.is_large_binary(target):
        return texts.cast(target), np.zeros(len(texts), dtype=bool)
    trimmed = pc.utf8_trim_whitespace(texts)
    bad = _hopeless(trimmed, target)
    values = pc.if_else(pa.array(bad), pa.scalar(None, pa.string()), trimmed) if bad.any() else trimmed
    try:
        return _cast_texts(values, target), bad
    except pa.ArrowInvalid:
        distinct = pc.unique(values).drop_null()
        wrong = _unconvertible(distinct, target, _cast_texts)
        bad |= _mask(pc.is_in(values, value_set=distinct.filter(pa.array(wrong))))
        values = pc.if_else(pa.array(bad), pa.scalar(None, pa.string()), values)
        return _cast_texts(values, target), bad


def cast_values(column: pa.Array, target: pa.DataType) -> tuple[pa.Array, Mask]:
    """Return values of a type as another, and which of them do not convert without loss (bool [rows]).

    Raises:
        RequestError: The types have nothing in common, such as a list and a number.
    """
    if column.type == target:
        return column, np.zeros(len(column), dtype=bool)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return parse_texts(column.cast(pa.string()), target)
    try:
        return _cast(column, target), np.zeros(len(column), dtype=bool)
    except pa.ArrowNotImplementedError as exc:
        raise RequestError(f"values of type {column.type} do not convert to {target}; declare another dtype.") from exc
    except (pa.ArrowInvalid, OverflowError):
        bad = _unconvertible(column, target, _cast)
        kept = pc.if_else(pa.array(bad), pa.scalar(None, column.type), column)
        return kept.cast(target), bad


def infinities(column: pa.ChunkedArray | pa.Array) -> bool:
    """Return whether a float column holds an infinity, which in text may be a number too large to hold."""
    return pa.types.is_floating(column.type) and bool(pc.any(pc.is_inf(column)).as_py())


def check_columns(names: Sequence[str], most: int, path: str) -> None:
    """Check the column names of one file.

    Raises:
        RequestError: There are too many, or one comes twice.
    """
    if len(names) > most:
        raise RequestError(f"{path} has {len(names)} columns, more than limits.columns of {most}; raise it if right.")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise RequestError(f"{path} has the column {name[:200]!r} twice; rename one.")
        seen.add(name)


def too_large(table: pa.Table, limit: int) -> tuple[str, Mask] | None:
    """Return the first column with a cell above `limit` bytes, and which rows those are; None when there is none."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if pa.types.is_dictionary(kind):
            continue
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            width = kind.value_type.bit_width // 8 if pa.types.is_primitive(kind.value_type) else 1
            sizes = pc.multiply(pc.list_value_length(column).cast(pa.int64()), max(width, 1))
        elif _has_lengths(kind):
            if column.nbytes <= limit:
                continue
            sizes = pc.binary_length(column)
        else:
            continue
        over = _mask(pc.greater(sizes, limit))
        if over.any():
            return name, over
    return None


def _has_lengths(kind: pa.DataType) -> bool:
    return any(
        check(kind)
        for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )


def _hopeless(texts: pa.Array, target: pa.DataType) -> Mask:
    """Return which texts are no number of the type whatever its range, found without trying each."""
    if pa.types.is_integer(target):
        return ~_mask(pc.match_substring_regex(texts, _INTEGER), null=True)
    if pa.types.is_floating(target):
        return ~_mask(
            pc.or_(pc.match_substring_regex(texts, _NUMBER), pc.match_substring_regex(texts, _NO_NUMBER)), null=True
        )
    if pa.types.is_boolean(target):
        known = pc.is_in(texts, value_set=pa.array([*_TRUE, *_FALSE]))
        return ~_mask(pc.or_(known, pc.is_null(texts)))
    return np.zeros(len(texts), dtype=bool)


def _cast_texts(texts: pa.Array, target: pa.DataType) -> pa.Array:
    if pa.types.is_boolean(target):
        return pc.if_else(pc.is_null(texts), pa.scalar(None, pa.bool_()), pc.is_in(texts, value_set=pa.array(_TRUE)))
    values = pc.cast(texts, target)
    if infinities(values):
        endless = _mask(pc.is_inf(values)) & ~_mask(pc.match_substring_regex(texts, _NO_NUMBER))
        if endless.any():
            raise pa.ArrowInvalid("a finite number became an infinity")
    return values


def _unconvertible(values: pa.Array, target: pa.DataType, cast: Callable[[pa.Array, pa.DataType], pa.Array]) -> Mask:
    """Return which values `cast` does not convert: halves are tried until those that fail stand alone."""
    bad = np.zeros(len(values), dtype=bool)
    waiting = [(0, len(values))]
    while waiting:
        start, end = waiting.pop()
        try:
            cast(values.slice(start, end - start), target)
        except (pa.ArrowInvalid, OverflowError):
            if end - start == 1:
                bad[start] = True
            else:
                middle = (start + end) // 2
                waiting += [(start, middle), (middle, end)]
    return bad


def _cast(column: pa.Array, target: pa.DataType) -> pa.Array:
    values = column.cast(target)
    if infinities(values) and not pc.all(pc.equal(pc.is_inf(values), pc.is_inf(column))).as_py():
        raise pa.ArrowInvalid("a finite number became an infinity")
    return values


def _mask(flags: pa.Array | pa.ChunkedArray, null: bool = False) -> Mask:
    return np.asarray(pc.fill_null(flags, null).to_numpy(zero_copy_only=False), dtype=bool)
