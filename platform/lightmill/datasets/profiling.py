"""The profile of a dataset in one pass over its judged rows: `of` a block, `+` over blocks, `finish` once.

Memory: for each column 4 KiB and at most `sketches.VALUES_MAX` texts; for all together a sample of at most
`CELLS_MAX` cells and the correlations of `PAIRS_MAX` columns. The number of rows does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

from lightmill.datasets.arrays import lengths, single
from lightmill.datasets.profile_columns import SHOWN_TEXT, ColumnPart, column_summary
from lightmill.datasets.sketches import Counts, Distinct, Floats, Numbers, Pairs, Sample, smallest_rows
from lightmill.datasets.thumbnails import BYTES_MAX, encoded_uri, pixels_uri
from lightmill.datasets.verdicts import Tally
from lightmill.records.profile import (
    ClassBalance,
    Correlations,
    ProfileRecord,
    Thumbnail,
)
from lightmill.records.quality import FLOATS, INTEGERS, ColumnRule
from lightmill.records.splitting import SPLITS

pc: Any = compute  # pyarrow makes these functions at import; type checkers do not see them

CELLS_MAX = 1 << 22
SAMPLE_MAX = 8192
PAIRS_MAX = 64
IMAGES_MAX = 16
_COUNTED = ("bool", "string", "date", *INTEGERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilePart:
    """What blocks say of the dataset; they add up in any order."""

    rows: int
    columns: tuple[ColumnPart, ...]
    sample: Sample
    images: Sample
    pairs: Pairs
    classes: tuple[Counts, ...]
    splits: tuple[int, ...]

    def __add__(self, other: ProfilePart) -> ProfilePart:
        return ProfilePart(
            rows=self.rows + other.rows,
            columns=tuple(a + b for a, b in zip(self.columns, other.columns, strict=True)),
            sample=self.sample + other.sample,
            images=self.images + other.images,
            pairs=self.pairs + other.pairs,
            classes=tuple(a + b for a, b in zip(self.classes, other.classes, strict=True)),
            splits=tuple(a + b for a, b in zip(self.splits, other.splits, strict=True)),
        )


class Profiler:
    """Profiles tables that a `Judge` with the same columns has made. Pickles small."""

    def __init__(self, columns: Sequence[ColumnRule]) -> None:
        """Choose what is measured of which column; a column with tags is personal, and only counted."""
        self._columns = [(name, column) for column in columns for name in column.names()]
        shown = [(name, column) for name, column in self._columns if not column.tags]
        numeric = [name for name, column in shown if _is_number(column) and column.role not in ("key", "ignore")]
        self._paired = numeric[:PAIRS_MAX]
        self._left_out = len(numeric) - len(self._paired)
        self._label = next((name for name, column in shown if column.role == "label" and not column.container), None)
        self._sampled = [(name, column) for name, column in shown if _is_number(column) or column.scalar in _COUNTED]
        self._limit = int(np.clip(CELLS_MAX // max(2 * len(self._sampled), 1), 256, SAMPLE_MAX))
        self._images = [(name, column) for name, column in shown if _is_image(column)]

    def of(
        self, table: pa.Table, row_id: npt.NDArray[np.int64], split: npt.NDArray[np.int8] | None = None
    ) -> ProfilePart:
        """Return the statistics of a block's rows that are kept.

        Args:
            table: The declared columns, in their declared types.
            row_id: int64 [rows], unique over the dataset.
            split: int8 [rows], an index into SPLITS; None where there are no splits.
        """
        arrays = {name: single(table.column(name), name) for name, _ in self._columns}
        numbers = {name: _floats(arrays[name]) for name, column in self._columns if _is_number(column)}
        parts = tuple(_part(arrays[name], numbers.get(name), column) for name, column in self._columns)
        label = None if self._label is None else arrays[self._label]
        split_rows = [np.flatnonzero(split == code) for code in range(len(SPLITS))] if split is not None else []
        classes = (
            ()
            if label is None
            else tuple(Counts.of(label.take(pa.array(rows))) for rows in split_rows)
            if split is not None
            else (Counts.of(label),)
        )
        return ProfilePart(
            rows=table.num_rows,
            columns=parts,
            sample=self._sample(arrays, row_id),
            images=self._image_sample(arrays, row_id),
            pairs=Pairs.of([numbers[name] for name in self._paired]),
            classes=classes,
            splits=tuple(len(rows) for rows in split_rows),
        )

    def _sample(self, arrays: dict[str, pa.Array], row_id: npt.NDArray[np.int64]) -> Sample:
        rows = pa.array(smallest_rows(row_id, self._limit))
        columns: list[pa.Array] = [pa.nulls(len(rows), pa.bool_())]
        names = [""]
        for index, (name, column) in enumerate(self._sampled):
            values = arrays[name].take(rows)
            if _is_number(column):
                columns.append(pa.array(_floats(values), from_pandas=True))
                names.append(f"number {index}")
            if column.scalar in _COUNTED and not column.container:
                columns.append(_short(values))
                names.append(f"value {index}")
            if _has_length(column):
                columns.append(lengths(values).cast(pa.float64()))
                names.append(f"length {index}")
        return Sample.chosen(pa.Table.from_arrays(columns, names=names), row_id[rows.to_numpy()], self._limit)

    def _image_sample(self, arrays: dict[str, pa.Array], row_id: npt.NDArray[np.int64]) -> Sample:
        """Keep a few rows of the image columns; a picture that is too large for a page is null from here on."""
        rows = pa.array(smallest_rows(row_id, IMAGES_MAX if self._images else 0))
        columns = [_small(arrays[name].take(rows), column) for name, column in self._images]
        ids = row_id[rows.to_numpy()]
        names = ["row_id", *(name for name, _ in self._images)]
        return Sample.chosen(pa.Table.from_arrays([pa.array(ids), *columns], names=names), ids, IMAGES_MAX)

    # -- the end --------------------------------------------------------------

    def finish(self, part: ProfilePart, name: str, tally: Tally | None = None) -> ProfileRecord:
        """Return the profile of the dataset `name`; `tally` adds what validation rejected and clipped."""
        places = {name: index for index, (name, _) in enumerate(self._sampled)}
        columns = tuple(
            column_summary(name, column, found, part.sample.table, places.get(name))
            for (name, column), found in zip(self._columns, part.columns, strict=True)
        )
        return ProfileRecord(
            name=name,
            rows_in=tally.rows if tally else part.rows,
            rows=part.rows,
            rejected=tally.by_reason() if tally else {},
            clipped=dict(sorted(tally.clipped.items())) if tally else {},
            splits=dict(zip(SPLITS, part.splits, strict=True)) if part.splits else {},
            columns=columns,
            correlations=self._correlations(part.pairs),
            classes=self._classes(part),
            thumbnails=self._thumbnails(part.images.table),
        )

    def _correlations(self, pairs: Pairs) -> Correlations | None:
        if len(self._paired) < 2:
            return None
        values = tuple(tuple(row) for row in pairs.correlations())
        return Correlations(columns=tuple(self._paired), values=values, left_out=self._left_out)

    def _classes(self, part: ProfilePart) -> ClassBalance | None:
        found = [one.counts for one in part.classes]
        counts = [one for one in found if one is not None]
        if self._label is None or not counts or len(counts) < len(found):
            return None
        names = sorted({name for one in counts for name in one}, key=_natural)
        return ClassBalance(
            column=self._label,
            classes=tuple(names),
            splits=SPLITS if part.splits else ("all",),
            counts=tuple(tuple(one.get(name, 0) for one in counts) for name in names),
        )

    def _thumbnails(self, table: pa.Table) -> tuple[Thumbnail, ...]:
        out: list[Thumbnail] = []
        for row in table.to_pylist():
            for name, column in self._images:
                uri = None if row[name] is None else _uri(row[name], column)
                if uri:
                    out.append(Thumbnail(column=name, row_id=row["row_id"], uri=uri))
        return tuple(out[:IMAGES_MAX])


def _natural(text: str) -> tuple[int, float, str]:
    """Order numbers as numbers, before other texts."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


def _is_number(column: ColumnRule) -> bool:
    return column.scalar in (*INTEGERS, *FLOATS) and not column.container


def _has_length(column: ColumnRule) -> bool:
    return column.container == "list" or column.scalar in ("string", "binary")


def _is_image(column: ColumnRule) -> bool:
    return column.role == "image" and (column.dtype == "binary" or column.dtype == "tensor<uint8>")


def _floats(values: pa.Array) -> Floats:
    """Return numbers as float64 with NaN for null; integers beyond 2^53 round."""
    return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _short(values: pa.Array) -> pa.Array:
    texts = values if pa.types.is_string(values.type) else values.cast(pa.string())
    return pc.utf8_slice_codeunits(texts, 0, SHOWN_TEXT)


def _small(values: pa.Array, column: ColumnRule) -> pa.Array:
    if column.container:
        return values
    return pc.if_else(pc.less_equal(pc.binary_length(values), BYTES_MAX), values, pa.scalar(None, values.type))


def _uri(value: Any, column: ColumnRule) -> str | None:
    if column.dtype == "binary":
        return encoded_uri(value)
    return pixels_uri(np.array(value, dtype=np.uint8).reshape(column.shape or ()))


def _part(values: pa.Array, numbers: Floats | None, column: ColumnRule) -> ColumnPart:
    count = len(values) - values.null_count
    if column.tags:
        return ColumnPart(count=count, nulls=values.null_count)
    counted = column.scalar in _COUNTED and not column.container and column.role not in ("key", "text")
    return ColumnPart(
        count=count,
        nulls=values.null_count,
        distinct=None if column.container else Distinct.of(values),
        numbers=None if numbers is None else Numbers.of(numbers),
        lengths=Numbers.of(_floats(lengths(values))) if _has_length(column) else None,
        counts=Counts.of(values) if counted else None,
    )
