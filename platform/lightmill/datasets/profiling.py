"""The profile of a dataset in one pass over its judged rows: `of` a block, `+` over blocks, `finish` once.

Memory: for each column 4 KiB and at most `sketches.VALUES_MAX` texts; for all together a sample of at most
`CELLS_MAX` cells and the correlations of `PAIRS_MAX` columns. The number of rows does not matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

from lightmill.datasets.sketches import Counts, Distinct, Floats, Numbers, Pairs, Sample, most_frequent, smallest_rows
from lightmill.datasets.thumbnails import BYTES_MAX, encoded_uri, pixels_uri
from lightmill.datasets.verdicts import Tally
from lightmill.records.profile import (
    ClassBalance,
    ColumnSummary,
    Correlations,
    Histogram,
    NumberSummary,
    ProfileRecord,
    Thumbnail,
    TopValue,
)
from lightmill.records.quality import FLOATS, INTEGERS, ColumnRule
from lightmill.records.splitting import SPLITS

pc: Any = compute  # pyarrow makes these functions at import; type checkers do not see them

CELLS_MAX = 1 << 22
SAMPLE_MAX = 8192
PAIRS_MAX = 64
TOP = 20
BINS = 30
IMAGES_MAX = 16
SHOWN_TEXT = 64
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_COUNTED = ("bool", "string", "date", *INTEGERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnPart:
    """What blocks say of one column; None where its kind has no such statistic."""

    count: int
    nulls: int
    distinct: Distinct | None = None
    numbers: Numbers | None = None
    lengths: Numbers | None = None
    counts: Counts | None = None

    def __add__(self, other: ColumnPart) -> ColumnPart:
        return ColumnPart(
            count=self.count + other.count,
            nulls=self.nulls + other.nulls,
            distinct=_both(self.distinct, other.distinct),
            numbers=_both(self.numbers, other.numbers),
            lengths=_both(self.lengths, other.lengths),
            counts=_both(self.counts, other.counts),
        )


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
        arrays = {name: _single(table.column(name)) for name, _ in self._columns}
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
                columns.append(_lengths(values).cast(pa.float64()))
                names.append(f"length {index}")
        return Sample.of(pa.Table.from_arrays(columns, names=names), row_id[rows.to_numpy()], self._limit)

    def _image_sample(self, arrays: dict[str, pa.Array], row_id: npt.NDArray[np.int64]) -> Sample:
        """Keep a few rows of the image columns; a picture that is too large for a page is null from here on."""
        rows = pa.array(smallest_rows(row_id, IMAGES_MAX if self._images else 0))
        columns = [_small(arrays[name].take(rows), column) for name, column in self._images]
        ids = row_id[rows.to_numpy()]
        names = ["row_id", *(name for name, _ in self._images)]
        return Sample.of(pa.Table.from_arrays([pa.array(ids), *columns], names=names), ids, IMAGES_MAX)

    # -- the end --------------------------------------------------------------

    def finish(self, part: ProfilePart, name: str, tally: Tally | None = None) -> ProfileRecord:
        """Return the profile of the dataset `name`; `tally` adds what validation rejected and clipped."""
        places = {name: index for index, (name, _) in enumerate(self._sampled)}
        columns = tuple(
            _summary(name, column, found, part.sample.table, places.get(name))
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


def _both(first: Any, second: Any) -> Any:
    return None if first is None or second is None else first + second


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


def _single(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found


def _floats(values: pa.Array) -> Floats:
    """Return numbers as float64 with NaN for null; integers beyond 2^53 round."""
    return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _lengths(values: pa.Array) -> pa.Array:
    if pa.types.is_string(values.type):
        return pc.utf8_length(values)
    return pc.binary_length(values) if pa.types.is_binary(values.type) else pc.list_value_length(values)


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
        lengths=Numbers.of(_floats(_lengths(values))) if _has_length(column) else None,
        counts=Counts.of(values) if counted else None,
    )


def _summary(name: str, column: ColumnRule, part: ColumnPart, sample: pa.Table, place: int | None) -> ColumnSummary:
    counted = part.counts.counts if part.counts else None
    distinct = len(counted) if counted is not None else part.distinct.estimate() if part.distinct else None
    return ColumnSummary(
        name=name,
        dtype=column.dtype if not column.shape else f"{column.dtype} {list(column.shape)}",
        role=column.role,
        tags=column.tags,
        hidden=bool(column.tags),
        count=part.count,
        nulls=part.nulls,
        distinct=distinct,
        distinct_exact=counted is not None,
        numbers=_number_summary(part.numbers, _sampled(sample, f"number {place}")),
        lengths=_number_summary(part.lengths, _sampled(sample, f"length {place}")),
        top=_top(part.counts, sample, f"value {place}"),
    )


def _sampled(sample: pa.Table, name: str) -> Floats:
    if name not in sample.column_names:
        return np.empty(0)
    found = sample.column(name).drop_null().to_numpy()
    return found[np.isfinite(found)]


def _top(counts: Counts | None, sample: pa.Table, name: str) -> tuple[TopValue, ...]:
    """Return the most frequent values; where there were too many to count, those that the sample shows repeatedly."""
    if counts is None:
        return ()
    if counts.counts is not None:
        return tuple(
            TopValue(value=text[:SHOWN_TEXT], count=count) for text, count in most_frequent(counts.counts, TOP)
        )
    seen = Counter(text for text in sample.column(name).to_pylist() if text is not None)
    often = [(text, count) for text, count in most_frequent(dict(seen), TOP) if count > 1 and len(text) < SHOWN_TEXT]
    return tuple(TopValue(value=text, count=count, at_least=True) for text, count in often)


def _number_summary(numbers: Numbers | None, sample: Floats) -> NumberSummary | None:
    if numbers is None:
        return None
    if not numbers.count:
        return NumberSummary(count=0, infinite=numbers.infinite)
    quantiles = np.quantile(sample, _QUANTILES) if len(sample) else np.empty(0)
    std = numbers.std
    return NumberSummary(
        count=numbers.count,
        infinite=numbers.infinite,
        minimum=numbers.minimum,
        maximum=numbers.maximum,
        mean=numbers.mean,
        std=std if np.isfinite(std) else None,
        quantiles=tuple(float(value) for value in quantiles if np.isfinite(value)),
        histogram=_histogram(numbers, sample),
    )


def _histogram(numbers: Numbers, sample: Floats) -> Histogram | None:
    """Return counts of the sample between the least and the largest value of all rows."""
    low, high = numbers.minimum, numbers.maximum
    if not len(sample) or not np.isfinite(high - low):
        return None
    if low == high:
        return Histogram(edges=(low, high), counts=(len(sample),), sampled=len(sample))
    whole = float(low).is_integer() and float(high).is_integer() and (sample == np.floor(sample)).all()
    if whole and high - low < BINS and low - 0.5 < low and high + 0.5 > high:
        edges = np.arange(low - 0.5, high + 1.0)
    else:
        edges = np.linspace(low, high, BINS + 1)
    if not (np.diff(edges) > 0).all():
        edges = np.array([low, high])
    counts, _ = np.histogram(sample, bins=edges)
    return Histogram(
        edges=tuple(float(edge) for edge in edges), counts=tuple(int(one) for one in counts), sampled=len(sample)
    )
