"""Impute, clip, standardize and min-max as one pass over each column, whatever run of them stands in a row.

Values stay in the cache: a run is computed in tiles of 16,384. The result does not depend on how steps are joined,
because every step alone takes the same path. Rules of type:

- impute and clip keep a column's type; an integer column becomes float64 where a filled value or a limit is not whole;
- standardize and min_max compute in float64 and give float32;
- NaN counts as missing, and what is still missing after the run is NULL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.columns import column_of, is_number, missing_in, with_column
from lightmill.models.preparation.kernels import pc
from lightmill.records.fitted import FittedClip, FittedImpute, FittedMinMax, FittedStandardize

NumericStep = FittedImpute | FittedClip | FittedStandardize | FittedMinMax
_TILE = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fill:
    value: float | int | str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limit:
    minimum: float | None
    maximum: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Affine:
    """(x - shift) / scale * times + plus."""

    shift: float
    scale: float
    times: float = 1.0
    plus: float = 0.0


_Op = _Fill | _Limit | _Affine


class NumericRun:
    """A run of numeric steps made ready to apply: a short program for each column."""

    def __init__(self, steps: Sequence[NumericStep]) -> None:
        self._names: dict[str, str] = {}
        self._programs: dict[str, list[_Op]] = {}
        self._indicators = [name for step in steps if isinstance(step, FittedImpute) and step.indicator
                            for name in step.columns]  # fmt: skip
        for step in steps:
            for i, name in enumerate(step.columns):
                self._names.setdefault(name, step.step)
                self._programs.setdefault(name, []).append(_op(step, i))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the columns computed in their places, and indicators at the end.

        Raises:
            RequestError: A column is missing or holds no numbers, or a filled value is not of its type.
        """
        for name in self._indicators:
            table = with_column(table, f"{name}_missing", missing_in(column_of(table, name, "impute")))
        for name, program in self._programs.items():
            column = column_of(table, name, self._names[name])
            table = with_column(table, name, _run(column, program, name, self._names[name]))
        return table


def joins(step: NumericStep) -> bool:
    """Whether a step may stand behind others in a run: one with an indicator looks at the table first."""
    return not (isinstance(step, FittedImpute) and step.indicator)


def _op(step: NumericStep, i: int) -> _Op:
    match step:
        case FittedImpute():
            return _Fill(value=step.values[i])
        case FittedClip():
            return _Limit(minimum=step.minimum[i], maximum=step.maximum[i])
        case FittedStandardize():
            return _Affine(shift=step.mean[i], scale=step.scale[i])
        case FittedMinMax():
            return _Affine(shift=step.minimum[i], scale=step.range[i], times=step.high - step.low, plus=step.low)


def _run(column: pa.ChunkedArray, program: list[_Op], name: str, step: str) -> pa.ChunkedArray | pa.Array:
    if pa.types.is_null(column.type):
        column = column.cast(pa.float64())
    kind = column.type
    if not is_number(kind) or (pa.types.is_boolean(kind) and all(isinstance(op, _Fill) for op in program)):
        return _fill_only(column, program, name, step)
    for op in program:
        if isinstance(op, _Fill) and isinstance(op.value, str):
            raise RequestError(
                f"Step {step!r}: column {name!r} has type {kind}, but is to be filled with {op.value!r}."
            )
    if pa.types.is_integer(kind) and all(_whole(op) for op in program):
        return _integers(column, program, name, step)
    return _floats(column, program)


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


def _whole(op: _Op) -> bool:
    match op:
        case _Fill():
            return float(op.value).is_integer()
        case _Limit():
            return all(limit is None or float(limit).is_integer() for limit in (op.minimum, op.maximum))
        case _Affine():
            return False


def _integers(column: pa.ChunkedArray, program: list[_Op], name: str, step: str) -> pa.ChunkedArray:
    info = np.iinfo(column.type.to_pandas_dtype())
    for op in program:
        if isinstance(op, _Fill):
            column = pc.fill_null(column, _scalar(int(op.value), column.type, name, step))
        elif isinstance(op, _Limit):
            # A limit beyond the type's range moves every value to the end of the range, or none.
            for limit, move in ((op.minimum, pc.max_element_wise), (op.maximum, pc.min_element_wise)):
                if limit is not None:
                    bound = pa.scalar(min(max(int(limit), int(info.min)), int(info.max)), type=column.type)
                    column = move(column, bound, skip_nulls=False)
    return column


def _floats(column: pa.ChunkedArray, program: list[_Op]) -> pa.Array:
    source = np.float32 if column.type in (pa.float16(), pa.float32()) else np.float64
    computed = any(isinstance(op, _Affine) for op in program)
    out = np.empty(len(column), dtype=np.float32 if computed else source)
    scratch = _Scratch(source)
    place = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for chunk in column.chunks:
            if pa.types.is_boolean(chunk.type):
                chunk = chunk.cast(pa.uint8())
            values = chunk.to_numpy(zero_copy_only=False)
            for start in range(0, len(values), _TILE):
                tile = values[start : start + _TILE]
                scratch.run(tile, program, out[place : place + len(tile)])
                place += len(tile)
    if any(isinstance(op, _Fill) for op in program):
        return pa.array(out)
    missing = np.isnan(out)
    return pa.array(out, mask=missing) if missing.any() else pa.array(out)


class _Scratch:
    """Memory for one tile, used again for every tile."""

    def __init__(self, source: type[np.float32] | type[np.float64]) -> None:
        self._source = source
        self._wide = np.empty(_TILE, dtype=np.float64)
        self._narrow = np.empty(_TILE, dtype=np.float32)
        self._mask = np.empty(_TILE, dtype=np.bool_)

    def run(self, tile: npt.NDArray[np.generic], program: list[_Op], out: npt.NDArray[np.floating]) -> None:
        """Compute the program on a tile of at most 16,384 values and write the result to `out`."""
        wide, narrow, mask = self._wide[: len(tile)], self._narrow[: len(tile)], self._mask[: len(tile)]
        x: npt.NDArray[np.floating] = wide if self._source is np.float64 else narrow
        np.copyto(x, tile, casting="unsafe")
        for op in program:
            match op:
                case _Fill():
                    np.isnan(x, out=mask)
                    np.copyto(x, x.dtype.type(op.value), where=mask)
                case _Limit():
                    low = -np.inf if op.minimum is None else op.minimum
                    high = np.inf if op.maximum is None else op.maximum
                    np.clip(x, x.dtype.type(low), x.dtype.type(high), out=x)
                case _Affine():
                    np.subtract(x, op.shift, out=wide, dtype=np.float64)
                    np.divide(wide, op.scale, out=wide)
                    if op.times != 1.0:
                        np.multiply(wide, op.times, out=wide)
                    if op.plus != 0.0:
                        np.add(wide, op.plus, out=wide)
                    x = out if op is program[-1] else narrow
                    np.copyto(x, wide, casting="same_kind")
        if x is not out:
            np.copyto(out, x, casting="same_kind")
