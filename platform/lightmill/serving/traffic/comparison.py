"""How two answers to one request differ: in which outputs, in which rows, and by how much. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightmill.records.traffic import CompareSpec
from lightmill.serving.tensors import BF16, Array, InferResponse, Tensor, widened

CLASS, VALUE, SHAPE, DATATYPE, MISSING = "class", "value", "shape", "datatype", "missing"
WHOLE = -1
"""The row of a difference that is the whole output's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One row of one output that differs; `row` is `WHOLE` where rows cannot be held against each other.

    `absolute` and `relative` are the largest of the row, of numbers only; infinite ones are left out.
    """

    output: str
    kind: str
    row: int = WHOLE
    absolute: float | None = None
    relative: float | None = None


def compare(stable: InferResponse, other: InferResponse, spec: CompareSpec) -> list[Difference]:
    """Return where two answers differ; nothing if they are the same for `spec`.

    Outputs that only the other answer has are not looked at. NaN equals NaN. A matrix of numbers differs by `class`
    where the largest number of a row is in another column, else by `value`.
    """
    others = {tensor.name: tensor for tensor in other.outputs}
    found: list[Difference] = []
    for tensor in stable.outputs:
        against = others.get(tensor.name)
        if against is None:
            found.append(Difference(output=tensor.name, kind=MISSING))
        elif against.datatype != tensor.datatype:
            found.append(Difference(output=tensor.name, kind=DATATYPE))
        elif against.array.shape != tensor.array.shape:
            found.append(Difference(output=tensor.name, kind=SHAPE))
        else:
            found += _rows(tensor, against, spec)
    return found


def _rows(tensor: Tensor, other: Tensor, spec: CompareSpec) -> Sequence[Difference]:
    mine, its = tensor.array, other.array
    if mine.ndim == 0:
        mine, its = mine.reshape(1), its.reshape(1)
    if not mine.size:
        return []
    if tensor.datatype == BF16:
        mine, its = widened(mine, BF16, "FP32"), widened(its, BF16, "FP32")
    if mine.dtype.kind != "f":
        unlike = _by_row(np.asarray(mine != its, dtype=bool))
        kind = CLASS if mine.dtype.kind in "iuOb" and mine.ndim == 1 else VALUE
        return [Difference(output=tensor.name, kind=kind, row=int(row)) for row in np.flatnonzero(unlike)]
    return _floats(tensor.name, mine.astype(np.float64), its.astype(np.float64), spec)


def _floats(name: str, mine: Array, its: Array, spec: CompareSpec) -> list[Difference]:
    with np.errstate(invalid="ignore"):
        apart = np.abs(mine - its)
    close = np.isclose(its, mine, rtol=spec.rtol, atol=spec.atol, equal_nan=True)
    of_classes = mine.ndim == 2 and mine.shape[1] > 1
    moved = np.zeros(len(mine), dtype=bool)
    if of_classes:
        moved = np.argmax(mine, axis=1) != np.argmax(its, axis=1)
        moved &= ~_by_row_all(close)
    unlike = moved if of_classes and spec.classes_only else _by_row(~close)
    found = []
    for row in np.flatnonzero(unlike):
        absolute, relative = _largest(apart[row], mine[row])
        kind = CLASS if moved[row] else VALUE
        found.append(Difference(output=name, kind=kind, row=int(row), absolute=absolute, relative=relative))
    return found


def _largest(apart: Array, mine: Array) -> tuple[float | None, float | None]:
    apart, mine = np.atleast_1d(apart).ravel(), np.abs(np.atleast_1d(mine).ravel())
    finite = np.isfinite(apart) & np.isfinite(mine)
    if not finite.any():
        return None, None
    absolute = float(apart[finite].max())
    over = finite & (mine > 0)
    relative = float((apart[over] / mine[over]).max()) if over.any() else None
    return absolute, relative if relative is None or np.isfinite(relative) else None


def _by_row(unlike: Array) -> Array:
    return np.asarray(unlike.reshape(len(unlike), -1).any(axis=1))


def _by_row_all(close: Array) -> Array:
    return np.asarray(close.reshape(len(close), -1).all(axis=1))
