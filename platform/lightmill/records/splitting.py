"""How rows are divided: into the splits of a dataset, and among the workers of a training.

`AnySplit` is a discriminated union on `by`. A `split` section of before, with `stratify` and without `by`, stays
valid: `stratify: true` (or nothing) is `by: stratified` on the label, `stratify: false` is `by: random`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from lightmill.records.base import Record
from lightmill.records.quality import Value

SPLITS = ("train", "validation", "test")
SEED_MAX = 2**63 - 1
Seed = Annotated[int, Field(ge=0, le=SEED_MAX)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Shares(Record):
    """The shares of the three splits; they add up to 1."""

    train: Share = 0.7
    validation: Share = 0.1
    test: Share = 0.2

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        total = self.train + self.validation + self.test
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(f"the shares add up to {total:g}; make train + validation + test = 1")
        return self


class RandomSplit(Shares):
    """Rows at random; every share is exact to one row."""

    by: Literal["random"] = "random"
    seed: Seed = 0


class StratifiedSplit(Shares):
    """Rows at random within each class of `column` (None: the label); every class keeps the shares to one row."""

    by: Literal["stratified"] = "stratified"
    column: str | None = None
    seed: Seed = 0


class SequentialSplit(Shares):
    """The earliest rows by `column` train, the latest test.

    Rows of the same time stay together: a share misses its size by at most the rows of the time at its end.
    """

    by: Literal["sequential"] = "sequential"
    column: str


class GroupedSplit(Shares):
    """No value of `column` in two splits; a share misses its size by at most twice the largest group."""

    by: Literal["grouped"] = "grouped"
    column: str
    seed: Seed = 0


class HashSplit(Shares):
    """By a digest of `column` (None: of the row): a row stays in its split when data grows. Shares are approximate."""

    by: Literal["hash"] = "hash"
    column: str | None = None
    seed: Seed = 0


class Comparison(Record):
    """A condition on one column; for `in` and `not in` the value is a list. A missing value fulfils none."""

    column: str
    op: Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in"]
    value: Value | tuple[Value, ...]

    @model_validator(mode="after")
    def _list_for_in(self) -> Self:
        if (self.op in ("in", "not in")) != isinstance(self.value, tuple):
            raise ValueError(f"op {self.op!r} needs {'a list' if 'in' in self.op else 'one value'}, not {self.value!r}")
        return self


class PredicateSplit(Record):
    """Rows that fulfil `test` test; of the others `validation` is a condition, or a random share; the rest trains."""

    by: Literal["predicate"] = "predicate"
    test: Comparison
    validation: Comparison | Share = 0.1
    seed: Seed = 0


def _with_kind(value: Any) -> Any:
    """Return a section of before as one with `by`; anything else unchanged."""
    if not isinstance(value, dict) or "by" in value:
        return value
    rest = {key: item for key, item in value.items() if key != "stratify"}
    return {"by": "stratified" if value.get("stratify", True) else "random", **rest}


AnySplit = Annotated[
    Annotated[
        RandomSplit | StratifiedSplit | SequentialSplit | GroupedSplit | HashSplit | PredicateSplit,
        Field(discriminator="by"),
    ],
    BeforeValidator(_with_kind),
]
SPLIT_ADAPTER: TypeAdapter[Any] = TypeAdapter(AnySplit)


class SplitRule(Record):
    """What tells the split of any row, made from all rows once; see `datasets.splitting`.

    Attributes:
        spec: What the specification said.
        keys: The keys of the classes (random, stratified, predicate) or groups (grouped) that were seen, rising.
        cuts: For each class, below which draws a row is in the first, and in the second split; for sequential and
            grouped splits once, in times and in draws of groups. None is no limit.
        splits: For grouped splits the split of each key, an index into SPLITS; other groups go by `cuts`.
    """

    spec: AnySplit
    keys: tuple[int, ...] = ()
    cuts: tuple[tuple[int | float | None, ...], ...] = ()
    splits: tuple[int, ...] = ()


class DistributionSpec(Record):
    """Which training worker gets which rows, every row once.

    `random` and `sequential` (contiguous runs) differ by at most one row between workers; `class` deals the rows of
    each class of `column` (None: the label) evenly, to one row for each class and for all; `key` keeps all rows of one
    value of `column` on one worker, and a worker misses an equal share by at most twice the most frequent value.
    """

    by: Literal["random", "sequential", "class", "key"] = "random"
    column: str | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _key_has_a_column(self) -> Self:
        if self.by == "key" and self.column is None:
            raise ValueError("by 'key' needs a column; name the one whose values stay together")
        return self
