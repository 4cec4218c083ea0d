"""What the declared schema says of each row: keep it, clip it, or drop it and why. Pure, one block at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pandas.util import hash_pandas_object

from lightmill.datasets.columns import ROW_ID
from lightmill.records.specs import ColumnSpec, DatasetSpec

KEPT, MISSING, OUT_OF_RANGE, UNKNOWN_LABEL, DUPLICATE = range(5)
REASONS = ("kept", "missing value", "out of range", "label not allowed", "duplicate row")
_SALTS = (np.uint64(0), np.uint64(0x9E3779B97F4A7C15))


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanBlock:
    """A block's rows as arrays of equal length.

    `features` float64 [rows, features] after clipping (NaN where missing), `label` int64 (class index, -1
    where unknown), `verdict` int8 (index into REASONS), `clipped` the number of clipped values, `digest`
    uint64 [rows, 2] of the row's content.
    """

    row_id: npt.NDArray[np.int64]
    features: npt.NDArray[np.float64]
    label: npt.NDArray[np.int64]
    verdict: npt.NDArray[np.int8]
    clipped: int
    digest: npt.NDArray[np.uint64]


class Cleaner:
    """Applies the declared columns and rules of a specification to blocks."""

    def __init__(self, spec: DatasetSpec) -> None:
        self._rules = spec.rules
        self._features = spec.feature_columns()
        self._label = spec.label_columns()[0]
        columns = [(name, column) for column in spec.columns for name in column.names()]
        self._limits = [_limits(column) for name, column in columns if column.role == "feature"]
        self._classes = classes_of(spec)

    def clean(self, block: pa.Table) -> CleanBlock:
        """Judge every row of a block."""
        values = [_as_float(block.column(name)) for name in self._features]
        features = np.stack(values, axis=1) if block.num_rows else np.empty((0, len(self._features)))
        label_column = block.column(self._label)
        label = self._class_index(label_column)
        missing = np.isnan(features).any(axis=1) | label_column.is_null().to_numpy()
        low, high = np.array(self._limits).T
        with np.errstate(invalid="ignore"):
            outside = (features < low) | (features > high)
        clipped = 0
        if self._rules.out_of_range == "clip":
            clipped = int(outside.sum())
            features = np.clip(features, low, high)
            outside[:] = False
        verdict = np.full(len(features), KEPT, dtype=np.int8)
        verdict[(outside | np.isinf(features)).any(axis=1)] = OUT_OF_RANGE
        verdict[label < 0] = UNKNOWN_LABEL
        verdict[missing] = MISSING
        return CleanBlock(
            row_id=block.column(ROW_ID).to_numpy(),
            features=features,
            label=label,
            verdict=verdict,
            clipped=clipped,
            digest=_digests(features, label),
        )

    def _class_index(self, column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        index = {value: position for position, value in enumerate(self._classes)}
        return np.array([index.get(str(value), -1) for value in column.to_pylist()], dtype=np.int64)


def classes_of(spec: DatasetSpec) -> tuple[str, ...]:
    """Return the classes in order, as text; the label column declares them in `values`."""
    label = next(column for column in spec.columns if column.role == "label")
    return tuple(str(value) for value in label.values or ())


def mark_duplicates(digest: npt.NDArray[np.uint64], verdict: npt.NDArray[np.int8]) -> None:
    """Set the verdict of every kept row whose content stood in an earlier kept row; rows are in source order."""
    kept = np.flatnonzero(verdict == KEPT)
    _, first = np.unique(digest[kept], axis=0, return_index=True)
    repeated = np.ones(len(kept), dtype=bool)
    repeated[first] = False
    verdict[kept[repeated]] = DUPLICATE


def _limits(column: ColumnSpec) -> tuple[float, float]:
    low = -np.inf if column.minimum is None else column.minimum
    high = np.inf if column.maximum is None else column.maximum
    return low, high


def _as_float(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _digests(features: npt.NDArray[np.float64], label: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Return 128 bits of each row's content, so that equal rows of any blocks can be found.

    pandas hashes numbers to 64 bits without a key; the second half hashes the same bits after a salt.
    Adding 0.0 makes -0.0 equal 0.0.
    """
    bits = np.column_stack([(features + 0.0).view(np.uint64), label.astype(np.uint64)])
    halves = [_hash_rows(bits ^ salt) for salt in _SALTS]
    return np.stack(halves, axis=1) if len(bits) else np.empty((0, 2), dtype=np.uint64)


def _hash_rows(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    hash_frame: Any = hash_pandas_object
    return hash_frame(pd.DataFrame(bits), index=False).to_numpy()
