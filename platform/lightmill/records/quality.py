"""The declared schema and the expectations of a dataset: what each column must hold, and what happens if not.

`ColumnRule` and `RulesSpec` accept every `columns` and `rules` section that `records.specs` accepts.
"""

from __future__ import annotations

import math
import re
from datetime import date, datetime
from typing import Annotated, Literal, Self, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lightmill.records.base import Record

FAMILY_MAX = 100_000
PATTERN_MAX = 1000
VALUES_MAX = 100_000
TENSOR_MAX = 1 << 24
_FAMILY = re.compile(r"\{(\d+)\.\.(\d+)\}")
_DTYPE = re.compile(r"(list|tensor)<(\w+)>|(\w+)")

IntegerName = Literal["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FloatName = Literal["float32", "float64"]
INTEGERS: tuple[str, ...] = get_args(IntegerName)
FLOATS: tuple[str, ...] = get_args(FloatName)
TEMPORALS = ("date", "timestamp")
SCALARS = (*INTEGERS, *FLOATS, "bool", "string", "binary", *TEMPORALS)
Role = Literal["feature", "label", "key", "time", "text", "image", "ignore"]


def _as_text(value: object) -> object:
    """Return YAML's dates as ISO 8601 text, the form in which a record keeps them."""
    return value.isoformat() if isinstance(value, date | datetime) else value


Limit = Annotated[int | float | str, BeforeValidator(_as_text)]
Value = Annotated[bool | int | float | str, BeforeValidator(_as_text)]


class ColumnRule(Record):
    """One column, or a numbered family of columns: `p{00..63}` stands for p00, p01, ... p63.

    `dtype` is a scalar's name, `list<scalar>` (any length) or `tensor<scalar>` (with `shape`). A `timestamp` has
    microseconds and is in UTC. `values` are the allowed ones, in the order that gives a label its class index.
    `minimum` and `maximum` are numbers, or ISO 8601 text for dates and timestamps. `pattern` is an RE2 expression
    that the whole text must match. `max_nulls` is the share of rows from 0 to 1 that may lack a value; without it a
    column that is not ignored may lack none. `max_length` counts characters, bytes or elements. `finite: false`
    admits infinities; NaN is a missing value always. A column with tags is personal: profiles count its values and
    show none.
    """

    name: str = Field(min_length=1)
    dtype: str
    shape: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    role: Role = "feature"
    minimum: Limit | None = None
    maximum: Limit | None = None
    values: tuple[Value, ...] | None = Field(default=None, max_length=VALUES_MAX)
    pattern: str | None = Field(default=None, max_length=PATTERN_MAX)
    unique: bool = False
    max_nulls: float | None = Field(default=None, ge=0, le=1)
    max_length: int | None = Field(default=None, ge=0)
    finite: bool = True
    tags: tuple[str, ...] = ()

    @field_validator("dtype")
    @classmethod
    def _dtype(cls, value: str) -> str:
        found = _DTYPE.fullmatch(value.replace(" ", ""))
        if not found or (found[2] or found[3]) not in SCALARS:
            raise ValueError(f"dtype must be one of {', '.join(SCALARS)}, or list<...> or tensor<...> of one of them")
        return found[0]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found = _FAMILY.search(self.name)
        if found and not 0 <= int(found[2]) - int(found[1]) < FAMILY_MAX:
            raise ValueError(f"the range in {self.name!r} must rise and hold at most {FAMILY_MAX} columns")
        if self.values and len(set(map(str, self.values))) < len(self.values):
            raise ValueError(f"values {list(self.values)} holds one of them twice")
        self._check_shape()
        self._check_limits()
        self._check_pattern()
        return self

    def _check_shape(self) -> None:
        if (self.container == "tensor") != (self.shape is not None):
            raise ValueError(f"shape belongs to dtype tensor<...> and to no other; dtype is {self.dtype!r}")
        if self.shape and math.prod(self.shape) > TENSOR_MAX:
            raise ValueError(f"shape {list(self.shape)} holds more than {TENSOR_MAX} values")
        if self.container and (self.values or self.unique):
            raise ValueError(f"values and unique are for single values; {self.name!r} is a {self.dtype}")

    def _check_limits(self) -> None:
        limits = [limit for limit in (self.minimum, self.maximum) if limit is not None]
        wants_text = self.scalar in TEMPORALS
        if limits and self.scalar in ("bool", "string", "binary"):
            raise ValueError(f"minimum and maximum need numbers, dates or timestamps; {self.name!r} is {self.dtype}")
        if any(isinstance(limit, str) != wants_text for limit in limits):
            raise ValueError(f"the limits of a {self.dtype} are {'ISO 8601 text' if wants_text else 'numbers'}")
        if wants_text:
            for limit in limits:
                datetime.fromisoformat(str(limit))
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:  # pyright: ignore[reportOperatorIssue]
            raise ValueError(f"minimum {self.minimum} is more than maximum {self.maximum}")

    def _check_pattern(self) -> None:
        if self.pattern is None:
            return
        if self.scalar != "string":
            raise ValueError(f"pattern is for texts; {self.name!r} is {self.dtype}")
        try:
            re.compile(self.pattern)
        except re.error as exc:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression: {exc}") from exc

    @property
    def container(self) -> Literal["list", "tensor"] | None:
        """Return what holds the scalars, or None for a single one."""
        if self.dtype.startswith("list"):
            return "list"
        return "tensor" if self.dtype.startswith("tensor") else None

    @property
    def scalar(self) -> str:
        """Return the dtype of a single value."""
        return self.dtype[self.dtype.index("<") + 1 : -1] if self.container else self.dtype

    @property
    def required(self) -> bool:
        """Return whether a row without a value in this column breaks the rule `missing`."""
        return self.role != "ignore" and self.max_nulls is None

    def names(self) -> tuple[str, ...]:
        """Return the column names that this entry stands for."""
        found = _FAMILY.search(self.name)
        if not found:
            return (self.name,)
        first, last = found.groups()
        return tuple(
            f"{self.name[: found.start()]}{number:0{len(first)}d}{self.name[found.end() :]}"
            for number in range(int(first), int(last) + 1)
        )


Action = Literal["fail", "drop", "quarantine"]


class RulesSpec(Record):
    """What happens to a row that breaks the declared schema: the job fails, or the row is dropped or kept aside.

    `out_of_range` is also for values that are not among `values`, do not match `pattern`, are longer than
    `max_length` or infinite; under `clip` numbers move to their limits and what cannot be clipped is dropped.
    `type` is for values that do not convert to the declared dtype, `unreadable` for rows and files that cannot be
    read, `unique` for the second and later rows with one value of a unique column.
    """

    missing: Action = "fail"
    out_of_range: Action | Literal["clip"] = "fail"
    duplicates: Action | Literal["keep"] = "fail"
    type: Action = "fail"
    unreadable: Action = "fail"
    unique: Action = "fail"


class Bounds(Record):
    """An inclusive range; a side that is not given is open."""

    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} is more than maximum {self.maximum:g}")
        return self

    def admits(self, value: float) -> bool:
        """Return whether a value lies in the range; NaN does not."""
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        return low <= value <= high

    def __str__(self) -> str:
        low = "" if self.minimum is None else f"at least {self.minimum:g}"
        high = "" if self.maximum is None else f"at most {self.maximum:g}"
        return " and ".join(part for part in (low, high) if part) or "any"


class ColumnExpectation(Record):
    """What a column must look like over all rows that hold to the schema.

    `mean` is of its values; `shares` gives for some values the share of rows from 0 to 1 that hold them.
    """

    mean: Bounds | None = None
    shares: dict[str, Bounds] = Field(default_factory=dict, max_length=1000)


class ExpectSpec(Record):
    """What the whole dataset must look like: `rows` counts the rows that are kept; `columns` goes by name."""

    rows: Bounds = Bounds()
    columns: dict[str, ColumnExpectation] = Field(default_factory=dict, max_length=1000)
