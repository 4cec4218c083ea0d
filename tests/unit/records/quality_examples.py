"""One example of every record of quality, splitting and profiles, for the tests that look at all records."""

from __future__ import annotations

from lightmill.records import profile, quality, splitting
from lightmill.records.base import Record

QUALITY: tuple[Record, ...] = (
    quality.ColumnRule(name="p{0..1}", dtype="int64", minimum=-1.5, values=(1, "a"), tags=("t",)),
    quality.RulesSpec(missing="quarantine", out_of_range="clip"),
    quality.Bounds(minimum=1),
    quality.ColumnExpectation(mean=quality.Bounds(maximum=2), shares={"a": quality.Bounds(minimum=0.1)}),
    quality.ExpectSpec(rows=quality.Bounds(minimum=10)),
)

_TEST = splitting.Comparison(column="land", op="in", value=("FR", "DE"))
SPLITTING: tuple[Record, ...] = (
    splitting.Shares(train=0.5, validation=0.25, test=0.25),
    splitting.RandomSplit(seed=3),
    splitting.StratifiedSplit(column="kind"),
    splitting.SequentialSplit(column="day"),
    splitting.GroupedSplit(column="patient"),
    splitting.HashSplit(),
    _TEST,
    splitting.PredicateSplit(test=_TEST, validation=0.25),
    splitting.DistributionSpec(by="key", column="patient"),
    splitting.SplitRule(spec=splitting.RandomSplit(), keys=(0,), cuts=((2**63, None),)),
)

_HISTOGRAM = profile.Histogram(edges=(0.0, 1.0), counts=(2,), sampled=2)
_NUMBERS = profile.NumberSummary(count=2, minimum=0.0, maximum=1.0, mean=0.5, std=0.5, histogram=_HISTOGRAM)
_TOP = profile.TopValue(value="a", count=2, at_least=True)
_COLUMN = profile.ColumnSummary(
    name="c", dtype="float64", role="feature", count=2, nulls=0, distinct=2, numbers=_NUMBERS, top=(_TOP,)
)
_CORRELATIONS = profile.Correlations(columns=("a", "b"), values=((1.0, None), (None, 1.0)))
_CLASSES = profile.ClassBalance(column="y", classes=("a",), splits=("train",), counts=((2,),))
_THUMBNAIL = profile.Thumbnail(column="scan", row_id=1, uri="data:image/png;base64,AA==")
PROFILE: tuple[Record, ...] = (
    _HISTOGRAM,
    _NUMBERS,
    _TOP,
    _COLUMN,
    _CORRELATIONS,
    _CLASSES,
    _THUMBNAIL,
    profile.ProfileRecord(
        name="d",
        rows_in=3,
        rows=2,
        rejected={"missing value": 1},
        columns=(_COLUMN,),
        correlations=_CORRELATIONS,
        classes=_CLASSES,
        thumbnails=(_THUMBNAIL,),
    ),
)
EXAMPLES = (*QUALITY, *SPLITTING, *PROFILE)
