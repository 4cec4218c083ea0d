"""What blocks say of one column of a profile, and the summary that it becomes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lightmill.datasets.sketches import Counts, Distinct, Floats, Numbers, most_frequent
from lightmill.records.profile import ColumnSummary, Histogram, NumberSummary, TopValue
from lightmill.records.quality import ColumnRule

TOP = 20
BINS = 30
SHOWN_TEXT = 64
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


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


def _both(first: Any, second: Any) -> Any:
    return None if first is None or second is None else first + second


def column_summary(
    name: str, column: ColumnRule, part: ColumnPart, sample: pa.Table, place: int | None
) -> ColumnSummary:
    """Return the summary of a column; `place` is its number in the names of the sample's columns."""
    counted = part.counts.counts if part.counts else None
    distinct = min(part.distinct.estimate(), part.count) if part.distinct else None
    distinct = distinct if counted is None else len(counted)
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
