"""One example of every record of quality, splitting and profiles, for the tests that look at all records."""

from __future__ import annotations

from lightmill.records import quality
from lightmill.records.base import Record

QUALITY: tuple[Record, ...] = (
    quality.ColumnRule(name="p{0..1}", dtype="int64", minimum=-1.5, values=(1, "a"), tags=("t",)),
    quality.RulesSpec(missing="quarantine", out_of_range="clip"),
    quality.Bounds(minimum=1),
    quality.ColumnExpectation(mean=quality.Bounds(maximum=2), shares={"a": quality.Bounds(minimum=0.1)}),
    quality.ExpectSpec(rows=quality.Bounds(minimum=10)),
)
