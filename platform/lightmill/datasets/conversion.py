"""Values into their declared dtype: exact, vectorized, and never a crash. What does not convert is marked.

Texts are trimmed of white space before they become numbers, truth values or times; the spellings in
`MISSING_TEXTS` are missing. A number converts if the declared dtype holds it exactly; only float32 rounds, and it
does not turn finite numbers into infinity. Texts for lists and tensors are JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from pyarrow import compute

from lightmill.records.quality import FLOATS, INTEGERS, ColumnRule

pc: Any = compute  # pyarrow makes these functions at import; type checkers do not see them

MISSING_TEXTS = ("", "NA", "NaN", "nan", "null", "NULL", "?")
Mask = npt.NDArray[np.bool_]
Converted = tuple[pa.Array, Mask]
_TYPES: dict[str, pa.DataType] = {
    **{name: getattr(pa, name)() for name in (*INTEGERS, *FLOATS)},
    "bool": pa.bool_(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
_INTEGER = r"^[+-]?[0-9]+$"
_FLOAT = r"(?i)^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf|infinity|nan)$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_TIME = (
    r"(?i)^[0-9]{4}-[0-9]{2}-[0-9]{2}([t ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(z|[+-][0-9]{2}:?[0-9]{2})?)?$"
)
_ZONED = r"(?i)[0-9]:[0-9].*(z|[+-][0-9]{2}:?[0-9]{2})$"
_SAFE_DIGITS = 18


def arrow_type(rule: ColumnRule) -> pa.DataType:
    """Return the Arrow type that a declared column has after conversion; a tensor is flat, of fixed size."""
    scalar = _TYPES[rule.scalar]
    if rule.container == "list":
        return pa.list_(scalar)
    return pa.list_(scalar, int(np.prod(rule.shape or ()))) if rule.container == "tensor" else scalar


def convert(values: pa.Array, rule: ColumnRule) -> Converted:
    """Return the values in their declared type, and bool [rows]: which of them do not convert and became null."""
    values = _plain(values)
    if values.type == arrow_type(rule) and not rule.container and rule.scalar not in FLOATS:
        return values, np.zeros(len(values), dtype=bool)
    if rule.container:
        return _nested(values, rule)
    return _scalar(values, rule.scalar)


def _plain(values: pa.Array) -> pa.Array:
    """Return the values without dictionaries, views, large offsets and extension types."""
    kind = values.type
    if isinstance(values, pa.ExtensionArray):
        return _plain(values.storage)
    if pa.types.is_dictionary(kind):
        return _plain(values.dictionary_decode())
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return values.cast(pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind) or pa.types.is_binary_view(kind):
        return values.cast(pa.binary())
    if pa.types.is_float16(kind):
        return values.cast(pa.float32())
    return values.cast(pa.string()) if pa.types.is_decimal(kind) else values


def _scalar(values: pa.Array, name: str) -> Converted:
    kind = values.type
    if pa.types.is_null(kind):
        return pa.nulls(len(values), _TYPES[name]), np.zeros(len(values), dtype=bool)
    if name in INTEGERS or name in FLOATS:
        if pa.types.is_string(kind):
            return _number_of_text(_trimmed(values), name)
        if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return _number(values, name)
    if name == "bool":
        return _truth(values)
    if name in ("date", "timestamp"):
        return _time(values, name)
    if name in ("string", "binary") and not pa.types.is_nested(kind):
        if name == "binary" and not pa.types.is_binary(kind):
            texts, failed = _cast(values, pa.string())
            return texts.cast(pa.binary()), failed
        return _cast(values, _TYPES[name])
    return _none_of(values, name)


def _none_of(values: pa.Array, name: str) -> Converted:
    """Return that no value that is there converts."""
    return pa.nulls(len(values), _TYPES[name]), values.is_valid().to_numpy(zero_copy_only=False)


def _trimmed(values: pa.Array) -> pa.Array:
    """Return texts without white space around them, and null for the spellings of missing."""
    trimmed = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.is_in(trimmed, value_set=pa.array(MISSING_TEXTS)), pa.scalar(None, pa.string()), trimmed)


def _numpy(values: pa.Array) -> npt.NDArray[Any]:
    filled = pc.fill_null(values, pa.scalar(False if pa.types.is_boolean(values.type) else 0, values.type))
    return (filled if values.null_count else values).to_numpy(zero_copy_only=False)


def _raw(values: pa.Array) -> npt.NDArray[Any]:
    """Return what an array of numbers holds without a copy; what lies under a missing value is of no meaning."""
    data = values.buffers()[1]
    if data is None:
        return np.empty(0)
    return np.frombuffer(data, dtype=values.type.to_pandas_dtype())[values.offset : values.offset + len(values)]


def _absent(values: pa.Array) -> Mask:
    return values.is_null().to_numpy(zero_copy_only=False) if values.null_count else np.zeros(len(values), dtype=bool)


def _number(values: pa.Array, name: str) -> Converted:
    """Convert truth values and numbers; NaN is missing."""
    kind = _TYPES[name]
    if values.type == kind and pa.types.is_floating(kind) and not np.isnan(_raw(values)).any():
        return values, np.zeros(len(values), dtype=bool)
    absent, found = _absent(values), _numpy(values)
    if found.dtype.kind == "f":
        nan = np.isnan(found)
        if values.type == kind and not nan.any():
            return values, np.zeros(len(values), dtype=bool)
        absent = absent | nan
    target = np.dtype(kind.to_pandas_dtype())
    with np.errstate(invalid="ignore", over="ignore"):
        if target.kind == "f":
            out = found.astype(target)
            failed = _inexact(found, target) if found.dtype.kind != "f" else np.isinf(out) & np.isfinite(found)
        else:
            failed = _outside(found, target)
            out = np.where(failed, found.dtype.type(0), found).astype(target)
            if found.dtype.kind == "f":
                failed = failed | (out.astype(np.float64) != found)
    failed &= ~absent
    return pa.array(out, type=kind, mask=failed | absent), failed


def _inexact(found: npt.NDArray[Any], target: np.dtype[Any]) -> Mask:
    """Return which integers a float type does not hold: those that have more binary digits than its significand."""
    if found.dtype.kind == "b":
        return np.zeros(len(found), dtype=bool)
    wide = found.astype(np.uint64) if found.dtype.kind == "u" else found.astype(np.int64).view(np.uint64)
    size = np.where(found < 0, np.uint64(0) - wide, wide)
    lowest = np.maximum(size & (np.uint64(0) - size), np.uint64(1))
    return size // lowest >= np.uint64(1 << (np.finfo(target).nmant + 1))


def _outside(found: npt.NDArray[Any], target: np.dtype[Any]) -> Mask:
    """Return which numbers an integer type does not hold, NaN among them."""
    if found.dtype.kind == "b":
        return np.zeros(len(found), dtype=bool)
    info = np.iinfo(target)
    if found.dtype.kind == "f":
        # The upper limits 2^n - 1 are no floats from 2^53 on; 2^n is.
        return ~((found >= float(info.min)) & (found < float(info.max + 1)))
    low, high = max(int(info.min), int(np.iinfo(found.dtype).min)), min(int(info.max), int(np.iinfo(found.dtype).max))
    return (found < low) | (found > high)


def _number_of_text(texts: pa.Array, name: str) -> Converted:
    if name in FLOATS:
        wide, failed = _checked(texts, _FLOAT, lambda good: good.cast(pa.float64()))
        found = _numpy(wide)
        overflow = np.isinf(found) & ~_flags(pc.match_substring(texts, "inf", ignore_case=True))
        out, more = _number(wide, name)
        failed = failed | overflow | more
        return (_without(out, overflow) if overflow.any() else out), failed
    good, failed = _checked(texts, _INTEGER, lambda array: pc.replace_substring_regex(array, r"^\+", ""))
    long = _flags(pc.greater(pc.utf8_length(good), _SAFE_DIGITS))
    short = _without(good, long).cast(pa.int64())
    out, outside = _number(short, name)
    if not long.any():
        return out, failed | outside
    # Row by row, for integers of more than 18 digits only.
    info = np.iinfo(_TYPES[name].to_pandas_dtype())
    listed = out.to_pylist()
    for row in np.flatnonzero(long):
        text = good[int(row)].as_py()
        digits = text.lstrip("-").lstrip("0") or "0"
        number = int(digits) * (-1 if text.startswith("-") else 1) if len(digits) <= 20 else None
        fits = number is not None and info.min <= number <= info.max
        listed[row] = number if fits else None
        outside[row] = not fits
    return pa.array(listed, type=_TYPES[name]), failed | outside


def _flags(values: pa.Array) -> Mask:
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False)


def _without(values: pa.Array, rows: Mask) -> pa.Array:
    return pc.if_else(pa.array(rows), pa.scalar(None, values.type), values) if rows.any() else values


def _checked(texts: pa.Array, pattern: str, finish: Callable[[pa.Array], pa.Array]) -> Converted:
    """Return `finish` of the texts that match, null for the others, and which did not match."""
    failed = _flags(pc.invert(pc.match_substring_regex(texts, pattern)))
    return finish(_without(texts, failed)), failed


def _truth(values: pa.Array) -> Converted:
    kind = values.type
    if pa.types.is_string(kind):
        return _checked(_trimmed(values), r"(?i)^(true|false|0|1)$", lambda good: good.cast(pa.bool_()))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        found, absent = _numpy(values), _absent(values)
        if found.dtype.kind == "f":
            absent = absent | np.isnan(found)
        failed = (found != 0) & (found != 1) & ~absent
        return pa.array(found == 1, mask=failed | absent), failed
    return (values, np.zeros(len(values), dtype=bool)) if pa.types.is_boolean(kind) else _none_of(values, "bool")


def _time(values: pa.Array, name: str) -> Converted:
    """Convert ISO 8601 texts, dates and timestamps; a time without a zone is in UTC, numbers have no unit and fail."""
    kind = values.type
    if pa.types.is_string(kind):
        texts = _trimmed(values)
        good, failed = _checked(texts, _DATE if name == "date" else _TIME, lambda array: array)
        if name == "date":
            out, more = _cast(good, pa.date32())
            return out, failed | more
        zoned = _flags(pc.match_substring_regex(good, _ZONED))
        aware, first = _cast(_without(good, ~zoned), _TYPES[name])
        naive, second = _cast(_without(good, zoned), pa.timestamp("us"))
        out = pc.if_else(pa.array(zoned), aware, pc.assume_timezone(naive, "UTC"))
        return out, failed | first | second
    if pa.types.is_timestamp(kind):
        if name == "timestamp":
            aware = values if kind.tz else pc.assume_timezone(values, "UTC")
            return _cast(aware, _TYPES[name])
        naive = values.cast(pa.timestamp(kind.unit)) if kind.tz else values
        days = naive.cast(pa.date32(), safe=False)
        failed = _flags(pc.not_equal(days.cast(naive.type), naive))
        return _without(days, failed), failed
    if pa.types.is_date(kind):
        if name == "date":
            return _cast(values, pa.date32())
        naive, failed = _cast(values, pa.timestamp("us"))
        return pc.assume_timezone(naive, "UTC"), failed
    return _none_of(values, name)


def _cast(values: pa.Array, kind: pa.DataType) -> Converted:
    """Cast, and find by halving which values do not: as many casts as bad values times the logarithm of all."""
    try:
        return values.cast(kind), np.zeros(len(values), dtype=bool)
    except pa.ArrowNotImplementedError:
        return pa.nulls(len(values), kind), values.is_valid().to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        if len(values) == 1:
            return pa.nulls(1, kind), np.ones(1, dtype=bool)
    middle = len(values) // 2
    (low, low_failed), (high, high_failed) = _cast(values[:middle], kind), _cast(values[middle:], kind)
    return pa.concat_arrays([low, high]), np.concatenate([low_failed, high_failed])


# -- lists and tensors --------------------------------------------------------


def _nested(values: pa.Array, rule: ColumnRule) -> Converted:
    unread = np.zeros(len(values), dtype=bool)
    if pa.types.is_string(values.type):
        values, unread = _parsed(_trimmed(values), rule)
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), arrow_type(rule)), unread
    if not _is_list(values.type):
        return pa.nulls(len(values), arrow_type(rule)), values.is_valid().to_numpy(zero_copy_only=False)
    flat, lengths, failed = _flattened(values, rule)
    inner, inner_failed = _scalar(_plain(flat), rule.scalar)
    parents = np.repeat(np.arange(len(values)), lengths)
    failed = failed | unread | (np.bincount(parents[inner_failed], minlength=len(values)) > 0)
    # A list that misses one of its values is missing itself.
    hole = _absent(inner)
    absent = _absent(values) | failed | (np.bincount(parents[hole], minlength=len(values)) > 0)
    return _rebuilt(inner, lengths, absent, rule), failed


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _flattened(values: pa.Array, rule: ColumnRule) -> tuple[pa.Array, npt.NDArray[np.int64], Mask]:
    """Return all inner values in order, how many each row has, and which rows have another shape than declared."""
    rows = len(values)
    sizes = [_lengths(values)]
    failed = np.zeros(rows, dtype=bool)
    parents = np.repeat(np.arange(rows), sizes[0])
    flat = _plain(pc.list_flatten(values))
    depth = 1
    while _is_list(flat.type) and rule.container == "tensor":
        inner = _lengths(flat)
        depth += 1
        if rule.shape and len(rule.shape) >= depth:
            wrong = inner != rule.shape[depth - 1]
            failed |= np.bincount(parents[wrong], minlength=rows) > 0
        parents = np.repeat(parents, inner)
        flat = _plain(pc.list_flatten(flat))
    lengths = np.bincount(parents, minlength=rows).astype(np.int64)
    if rule.shape:
        # A flat list of as many values as the shape holds is taken in row-major order.
        outer = int(np.prod(rule.shape)) if depth == 1 else rule.shape[0]
        failed |= (sizes[0] != outer) | (lengths != int(np.prod(rule.shape))) | (depth not in (1, len(rule.shape)))
        failed &= ~_absent(values)
    return flat, lengths, failed


def _lengths(values: pa.Array) -> npt.NDArray[np.int64]:
    return pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _rebuilt(inner: pa.Array, lengths: npt.NDArray[np.int64], absent: Mask, rule: ColumnRule) -> pa.Array:
    keep = inner.filter(pa.array(np.repeat(~absent, lengths)))
    lengths = np.where(absent, 0, lengths)
    if rule.container == "list":
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), keep, mask=pa.array(absent))
    size = int(np.prod(rule.shape or ()))
    # A fixed-size list has places for the values of null rows too: take any value, and mask the row.
    place = np.zeros((len(absent), size), dtype=np.int64)
    place[~absent] = np.arange(len(keep)).reshape(-1, size)
    filler = keep if len(keep) else pa.nulls(1, keep.type)
    return pa.FixedSizeListArray.from_arrays(filler.take(pa.array(place.ravel())), size, mask=pa.array(absent))


def _parsed(texts: pa.Array, rule: ColumnRule) -> Converted:
    """Return JSON texts as flat lists of text or numbers; row by row, since each text is a document of its own."""
    out: list[list[str] | None] = []
    failed = np.zeros(len(texts), dtype=bool)
    for row, text in enumerate(texts.to_pylist()):
        found: Any = None
        if text is not None:
            try:
                found = _json_row(orjson.loads(text), rule)
            except (orjson.JSONDecodeError, ValueError):
                failed[row] = True
        out.append(found)
    return pa.array(out, type=pa.list_(pa.string())), failed


def _json_row(value: Any, rule: ColumnRule) -> list[str | None]:
    if not isinstance(value, list):
        raise ValueError("not a list")
    for size in (rule.shape or ())[1:] if value and isinstance(value[0], list) else ():
        if not all(isinstance(item, list) and len(item) == size for item in value):
            raise ValueError("another shape")
        value = [item for inner in value for item in inner]
    if any(isinstance(item, list | dict) for item in value):
        raise ValueError("too deep")
    return [None if item is None else item if isinstance(item, str) else orjson.dumps(item).decode() for item in value]
