"""What a profile says of a dataset: statistics and pictures of its columns, never a value of a personal column."""

from __future__ import annotations

from pydantic import Field

from lightmill.records.base import Record

PROFILE_FILE = "profile.json"
"""The file of a dataset version that holds its profile."""


class Histogram(Record):
    """Counts between edges (one more than counts), of a sample of `sampled` values chosen by row id."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    sampled: int


class NumberSummary(Record):
    """Statistics of finite numbers, exact but for `quantiles` (of the same sample as the histogram).

    `std` is of the population. `quantiles` are those at 0.05, 0.25, 0.5, 0.75 and 0.95.
    """

    count: int
    infinite: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    quantiles: tuple[float, ...] = ()
    histogram: Histogram | None = None


class TopValue(Record):
    """A frequent value as text, and the number of rows that hold it; or at least that many."""

    value: str
    count: int
    at_least: bool = False


class ColumnSummary(Record):
    """One column over the rows that are kept.

    `hidden` columns are personal (they have tags): their counts are shown and nothing of their values. `distinct` is
    exact where `distinct_exact` says so and otherwise an estimate with a standard error of 1.6 %. `lengths` are
    characters, bytes or elements.
    """

    name: str
    dtype: str
    role: str
    tags: tuple[str, ...] = ()
    hidden: bool = False
    count: int
    nulls: int
    distinct: int | None = None
    distinct_exact: bool = False
    numbers: NumberSummary | None = None
    lengths: NumberSummary | None = None
    top: tuple[TopValue, ...] = ()


class Correlations(Record):
    """Pearson correlations of numeric columns over the rows that have both; None where one of them never varies."""

    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    left_out: int = 0


class ClassBalance(Record):
    """Rows of each class in each split: `counts` has a row for each class, and a number for each split in it."""

    column: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class Thumbnail(Record):
    """A picture of an image column as a data URI (PNG, JPEG, GIF or WebP)."""

    column: str
    row_id: int
    uri: str


class ProfileRecord(Record):
    """The profile of one dataset version.

    `rejected` maps a reason to a number of rows, `clipped` a column to a number of values, `splits` a split to a number
    of rows.
    """

    name: str
    rows_in: int
    rows: int
    rejected: dict[str, int] = Field(default_factory=dict)
    clipped: dict[str, int] = Field(default_factory=dict)
    splits: dict[str, int] = Field(default_factory=dict)
    columns: tuple[ColumnSummary, ...] = ()
    correlations: Correlations | None = None
    classes: ClassBalance | None = None
    thumbnails: tuple[Thumbnail, ...] = ()
