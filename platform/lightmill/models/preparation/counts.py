"""How often each value of a column occurs: exact, and refused beyond a limit instead of filling the memory."""

from __future__ import annotations

import math

import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.columns import is_number, is_text
from lightmill.models.preparation.kernels import pc

DISTINCT_MAX = 100_000

Value = str | int | float | bool


class Counts:
    """Counts of a column's values that are not missing; they add up over blocks in any order."""

    def __init__(self) -> None:
        self.count = 0
        self._counts: dict[Value, int] = {}
        self._name = ""

    def add(self, column: pa.ChunkedArray, name: str, step: str) -> None:
        """Take the values of a column; a Python loop over the different ones only.

        Raises:
            RequestError: The column holds neither text nor numbers, or more than 100,000 different values.
        """
        self._name = name
        if pa.types.is_null(column.type):
            return
        if not is_text(column.type) and not is_number(column.type):
            raise RequestError(f"Step {step!r}: column {name!r} has type {column.type}; name one of text or numbers.")
        found = pc.value_counts(column)
        if len(found) > DISTINCT_MAX + 2:  # NULL and NaN may be among them
            raise _too_many(name, len(found))
        for value, n in zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True):
            if value is not None and value == value:
                self._counts[value] = self._counts.get(value, 0) + n
                self.count += n
        self._check()

    def __add__(self, other: Counts) -> Counts:
        both = Counts()
        both._name = self._name or other._name
        both.count = self.count + other.count
        both._counts = dict(self._counts)
        for value, n in other._counts.items():
            both._counts[value] = both._counts.get(value, 0) + n
        both._check()
        return both

    def times(self, count: int) -> Counts:
        """Return the counts of all values taken so many times."""
        both = Counts() + self
        both.count, both._counts = both.count * count, {value: n * count for value, n in both._counts.items()}
        return both

    def _check(self) -> None:
        if len(self._counts) > DISTINCT_MAX:
            raise _too_many(self._name, len(self._counts))

    def ranked(self, *, at_least: int = 1) -> list[Value]:
        """Return the values that occur so often, the most frequent first, equally frequent ones in rising order."""
        kept = [(-n, value) for value, n in self._counts.items() if n >= at_least]
        return [value for _, value in sorted(kept)]

    def finite(self) -> bool:
        """Whether no value is an infinity."""
        return not any(isinstance(value, float) and math.isinf(value) for value in self._counts)


def _too_many(name: str, count: int) -> RequestError:
    return RequestError(
        f"Column {name!r} has {count:,} or more different values; counting stops at {DISTINCT_MAX:,}. Encode another "
        "column, or shorten this one's values with `derive` or `text_normalize` first."
    )
