"""Impute, clip, standardize and min-max as one pass over each column, whatever run of them stands in a row.

Values stay in the cache: a run is computed in tiles of 16,384 values of a column, or for few rows in one matrix of
columns. The result does not depend on how steps are joined, because every step alone takes the same path.

Rules of type:

- impute and clip keep a column's type; integers become float64 where a filled value or a limit is not whole, or where a
  limit would move every integer of the type; float16 becomes float32;
- standardize and min_max compute in float64 and give float32;
- NaN counts as missing, and what is still missing after the run is NULL.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.columns import column_of, is_number, missing_in, one_array, with_column
from lightmill.models.preparation.kernels import pc
from lightmill.records.fitted import FittedClip, FittedImpute, FittedMinMax, FittedStandardize

NumericStep = FittedImpute | FittedClip | FittedStandardize | FittedMinMax
_TILE = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fill:
    value: float | int | str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limit:
    minimum: float
    maximum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Affine:
    """(x - shift) / scale * times + plus."""

    shift: float
    scale: float
    times: float = 1.0
    plus: float = 0.0


_Op = _Fill | _Limit | _Affine
_Source = type[np.float32] | type[np.float64]
_Shape = tuple[tuple[str, bool, bool], ...]
_Kind = tuple[_Source, _Shape]


class NumericRun:
    """A run of numeric steps made ready to apply: a short program for each column."""

    def __init__(self, steps: Sequence[NumericStep]) -> None:
        self._names: dict[str, str] = {}
        self._programs: dict[str, list[_Op]] = {}
        self._stacked: dict[tuple[str, ...], list[_Op]] = {}
        self._indicators: list[str] = []
        for step in steps:
            if isinstance(step, FittedImpute) and step.indicator:
                self._indicators += step.columns
            for i, name in enumerate(step.columns):
                self._names.setdefault(name, step.step)
                self._programs.setdefault(name, []).append(_op(step, i))
        self._shapes = {name: _shape(program) for name, program in self._programs.items()}

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the columns computed in their places, and indicators at the end.

        Raises:
            RequestError: A column is missing or holds no numbers, or a filled value is not of its type.
        """
        for name in self._indicators:
            table = with_column(table, f"{name}_missing", missing_in(column_of(table, name, "impute")))
        made: dict[str, pa.Array | pa.ChunkedArray] = {}
        groups: dict[_Kind, dict[str, pa.ChunkedArray]] = {}
        for name, program in self._programs.items():
            column = column_of(table, name, self._names[name])
            source = _source(column.type, program, name, self._names[name])
            if source is None:
                made[name] = _in_arrow(column, program, name, self._names[name])
            else:
                groups.setdefault((source, self._shapes[name]), {})[name] = column
        for (source, _), columns in groups.items():
            made |= self._group(source, columns, len(table))
        return pa.Table.from_arrays(
            [made.get(name, column) for name, column in zip(table.column_names, table.columns, strict=True)],
            names=table.column_names,
            metadata=table.schema.metadata,
        )

    def _group(self, source: _Source, columns: dict[str, pa.ChunkedArray], rows: int) -> dict[str, pa.Array]:
        """Compute columns whose programs differ in numbers only: few rows side by side, many rows one by one."""
        programs = [self._programs[name] for name in columns]
        if len(columns) == 1 or rows * len(columns) > _TILE:
            found = [
                _floats(column, program, source) for column, program in zip(columns.values(), programs, strict=True)
            ]
        else:
            names = tuple(columns)
            if names not in self._stacked:
                self._stacked[names] = _stack(programs)
            tile = np.empty((len(names), rows), dtype=source)
            for place, column in enumerate(columns.values()):
                tile[place] = _numpy(one_array(column))
            found = list(_computed(tile, self._stacked[names], source))
        filled = any(isinstance(op, _Fill) for op in programs[0])
        return {name: _arrow(values, filled) for name, values in zip(columns, found, strict=True)}


def joins(step: NumericStep) -> bool:
    """Whether a step may stand behind others in a run: one with an indicator looks at the table first."""
    return not (isinstance(step, FittedImpute) and step.indicator)


def _op(step: NumericStep, i: int) -> _Op:
    match step:
        case FittedImpute():
            return _Fill(value=step.values[i])
        case FittedClip():
            low, high = step.minimum[i], step.maximum[i]
            return _Limit(minimum=-math.inf if low is None else low, maximum=math.inf if high is None else high)
        case FittedStandardize():
            return _Affine(shift=step.mean[i], scale=step.scale[i])
        case FittedMinMax():
            return _Affine(shift=step.minimum[i], scale=step.range[i], times=step.high - step.low, plus=step.low)


def _source(kind: pa.DataType, program: list[_Op], name: str, step: str) -> _Source | None:
    """Return the type of float in which a column enters its program; None where Arrow computes it in its own type."""
    if not is_number(kind) and not pa.types.is_null(kind):
        return None
    own = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    for op in program:
        if isinstance(op, _Fill) and isinstance(op.value, str):
            raise RequestError(
                f"Step {step!r}: column {name!r} has type {kind}, but is to be filled with {op.value!r}. Correct it."
            )
        own = own and _stays(op, kind, name, step)
    if own:
        return None
    return np.float32 if kind in (pa.float16(), pa.float32()) else np.float64


def _stays(op: _Op, kind: pa.DataType, name: str, step: str) -> bool:
    """Return whether a column of integers or booleans keeps its type; refuse to fill in what the type cannot hold."""
    match op:
        case _Fill() if pa.types.is_boolean(kind) or float(op.value).is_integer():
            _scalar(op.value if pa.types.is_boolean(kind) else int(op.value), kind, name, step)
            return True
        case _Limit() if pa.types.is_integer(kind):
            info = np.iinfo(kind.to_pandas_dtype())
            whole = all(math.isinf(limit) or limit.is_integer() for limit in (op.minimum, op.maximum))
            return whole and op.minimum <= info.max and op.maximum >= info.min
        case _:
            return False


def _in_arrow(column: pa.ChunkedArray, program: list[_Op], name: str, step: str) -> pa.ChunkedArray:
    if pa.types.is_integer(column.type):
        return _integers(column, program, name, step)
    return _fill_only(column, program, name, step)


def _shape(program: list[_Op]) -> _Shape:
    """Return what programs must share to be computed side by side."""
    return tuple(
        (type(op).__name__, isinstance(op, _Affine) and op.times != 1.0, isinstance(op, _Affine) and op.plus != 0.0)
        for op in program
    )


def _stack(programs: list[list[_Op]]) -> list[_Op]:
    """Return one program for a matrix [columns, rows], whose numbers are matrices [columns, 1]."""
    made: list[_Op] = []
    for ops in zip(*programs, strict=True):
        fields = {
            field.name: np.array([[getattr(op, field.name)] for op in ops], dtype=np.float64)
            for field in dataclasses.fields(ops[0])
        }
        made.append(type(ops[0])(**fields))
    return made


def _fill_only(column: pa.ChunkedArray, program: list[_Op], name: str, step: str) -> pa.ChunkedArray:
    for op in program:
        if not isinstance(op, _Fill):
            raise RequestError(
                f"Step {step!r}: column {name!r} has type {column.type}, not numbers. Declare it as a number, or "
                "encode it before this step."
            )
        column = pc.fill_null(column, _scalar(op.value, column.type, name, step))
    return column


def _scalar(value: object, kind: pa.DataType, name: str, step: str) -> pa.Scalar:
    try:
        return pa.scalar(value, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as exc:
        raise RequestError(
            f"Step {step!r}: column {name!r} has type {kind}, which cannot hold the filled value {value!r}."
        ) from exc


def _integers(column: pa.ChunkedArray, program: list[_Op], name: str, step: str) -> pa.ChunkedArray:
    info = np.iinfo(column.type.to_pandas_dtype())
    for op in program:
        if isinstance(op, _Fill):
            column = pc.fill_null(column, _scalar(int(op.value), column.type, name, step))
        elif isinstance(op, _Limit):
            # A limit beyond the type's range moves no value; see _stays.
            for limit, move in ((op.minimum, pc.max_element_wise), (op.maximum, pc.min_element_wise)):
                if not math.isinf(limit):
                    bound = pa.scalar(min(max(int(limit), int(info.min)), int(info.max)), type=column.type)
                    column = move(column, bound, skip_nulls=False)
    return column


def _numpy(chunk: pa.Array) -> npt.NDArray[Any]:
    if pa.types.is_boolean(chunk.type) or pa.types.is_null(chunk.type):
        chunk = chunk.cast(pa.float64() if pa.types.is_null(chunk.type) else pa.uint8())
    return chunk.to_numpy(zero_copy_only=False)


def _arrow(values: npt.NDArray[Any], filled: bool) -> pa.Array:
    if filled:
        return pa.array(values)
    missing = np.isnan(values)
    return pa.array(values, mask=missing) if missing.any() else pa.array(values)


def _floats(column: pa.ChunkedArray, program: list[_Op], source: _Source) -> npt.NDArray[Any]:
    """Compute one column, tile by tile, in memory that stays in the cache."""
    computed = any(isinstance(op, _Affine) for op in program)
    out = np.empty(len(column), dtype=np.float32 if computed else source)
    scratch = _Scratch.for_tile((min(_TILE, len(column)),), source)
    place = 0
    for chunk in column.chunks:
        values = _numpy(chunk)
        for start in range(0, len(values), _TILE):
            tile = values[start : start + _TILE]
            scratch.run(tile, program, out[place : place + len(tile)])
            place += len(tile)
    return out


def _computed(tile: npt.NDArray[Any], program: list[_Op], source: _Source) -> npt.NDArray[Any]:
    computed = any(isinstance(op, _Affine) for op in program)
    out = np.empty(tile.shape, dtype=np.float32 if computed else source)
    _Scratch.for_tile(tile.shape, source).run(tile, program, out)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scratch:
    """Memory for one tile, used again for every tile."""

    source: _Source
    wide: npt.NDArray[np.float64]
    narrow: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]

    @classmethod
    def for_tile(cls, shape: tuple[int, ...], source: _Source) -> _Scratch:
        """Return memory for tiles of at most this shape."""
        return cls(
            source=source,
            wide=np.empty(shape, dtype=np.float64),
            narrow=np.empty(shape, dtype=np.float32),
            mask=np.empty(shape, dtype=np.bool_),
        )

    def run(self, tile: npt.NDArray[Any], program: list[_Op], out: npt.NDArray[Any]) -> None:
        """Compute the program on a tile and write the result to `out`, of the tile's shape."""
        wide, narrow, mask = self.wide[: len(tile)], self.narrow[: len(tile)], self.mask[: len(tile)]
        x: npt.NDArray[Any] = wide if self.source is np.float64 else narrow
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(x, tile, casting="unsafe")
            for op in program:
                match op:
                    case _Fill():
                        np.isnan(x, out=mask)
                        np.copyto(x, np.asarray(op.value, dtype=x.dtype), where=mask)
                    case _Limit():
                        np.clip(x, np.asarray(op.minimum, dtype=x.dtype), np.asarray(op.maximum, dtype=x.dtype), out=x)
                    case _Affine():
                        x = _affine(x, op, wide, out if op is program[-1] else narrow)
            if x is not out:
                np.copyto(out, x, casting="same_kind")


def _affine(
    x: npt.NDArray[Any], op: _Affine, wide: npt.NDArray[np.float64], to: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    np.subtract(x, op.shift, out=wide, dtype=np.float64)
    np.divide(wide, op.scale, out=wide)
    if np.any(op.times != 1.0):
        np.multiply(wide, op.times, out=wide)
    if np.any(op.plus != 0.0):
        np.add(wide, op.plus, out=wide)
    np.copyto(to, wide, casting="same_kind")
    return to
