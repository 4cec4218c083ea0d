"""Mean and deviation of a column as exact integer sums, which do not depend on the order in which rows come.

Each value is written in digits of 18 bits at fixed binary places, and the sums of digits and of products of digits
are added up as integers. Only the four digits from the place of the column's largest magnitude down count: at least
54 bits, so what is left out of a value is below 2^-54 of that magnitude, and below 2^-954. Products of two digits stay
below 2^36, so that float64 adds up to 2^17 of them without rounding, in whatever order the processor likes. The idea
is that of J. Demmel and H. D. Nguyen, "Fast reproducible floating-point summation", ARITH 2013.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.models.preparation.columns import check_finite, floats, present

_BITS = 18
_DIGITS = 4
_LOWEST, _HIGHEST = -50, 56
_TILE = 8192  # beyond 10,000 values a BLAS may start threads for a dot product

Floats = npt.NDArray[np.float64]


class Moments:
    """Count, sum and sum of squares of a column's values; they add up over blocks in any order to the same bits.

    Without `squares` only the mean is asked for, at half the cost.
    """

    def __init__(self, *, squares: bool = True) -> None:
        self.count = 0
        self._squares = squares
        self._top = _LOWEST
        self._sums: dict[int, int] = {}
        self._products: dict[tuple[int, int], int] = {}

    def add(self, column: pa.ChunkedArray, name: str, step: str) -> None:
        """Take the values of a column that are not missing.

        Raises:
            RequestError: The column holds no numbers, or an infinity.
        """
        values = floats(column, name, step)
        missing = np.isnan(values)
        absent = int(np.count_nonzero(missing))
        if absent == len(values):
            return
        if absent:
            values = np.where(missing, 0.0, values)  # 0 adds nothing, and takes less time than leaving values out
        check_finite(values, name, step)
        self.count += len(values) - absent
        largest = max(-float(values.min()), float(values.max()))
        top = min(max((math.frexp(largest)[1] - 1) // _BITS, _LOWEST), _HIGHEST)
        digits = np.empty((_DIGITS, min(_TILE, len(values))))
        for start in range(0, len(values), _TILE):
            self._add_tile(values[start : start + _TILE], top, digits)
        self._raise_to(max(self._top, top))

    def _add_tile(self, values: Floats, top: int, digits: Floats) -> None:
        rest, whole, used = values.copy(), np.empty_like(values), 0
        for place in range(top, top - _DIGITS, -1):
            digit = digits[used, : len(values)]
            np.multiply(rest, math.ldexp(1.0, -_BITS * place), out=digit)
            np.trunc(digit, out=digit)
            rest -= np.multiply(digit, math.ldexp(1.0, _BITS * place), out=whole)
            used += 1
            if used < _DIGITS and not rest.any():
                break
        for i in range(used):
            first = digits[i, : len(values)]
            self._sums[top - i] = self._sums.get(top - i, 0) + int(first.sum())
            for j in range(i, used if self._squares else i):
                key = (top - i, top - j)
                self._products[key] = self._products.get(key, 0) + int(first @ digits[j, : len(values)])

    def _raise_to(self, top: int) -> None:
        """Leave out the digits below the four that count."""
        self._top, last = top, top - _DIGITS
        self._sums = {place: n for place, n in self._sums.items() if place > last}
        self._products = {places: n for places, n in self._products.items() if places[1] > last}

    def __add__(self, other: Moments) -> Moments:
        both = Moments(squares=self._squares)
        both.count = self.count + other.count
        for part in (self, other):
            for place, n in part._sums.items():
                both._sums[place] = both._sums.get(place, 0) + n
            for places, n in part._products.items():
                both._products[places] = both._products.get(places, 0) + n
        both._raise_to(max(self._top, other._top))
        return both

    def times(self, count: int) -> Moments:
        """Return the sums of all values taken so many times."""
        both = Moments(squares=self._squares)
        both.count, both._top = self.count * count, self._top
        both._sums = {place: n * count for place, n in self._sums.items()}
        both._products = {places: n * count for places, n in self._products.items()}
        return both

    def mean(self) -> float:
        """Return the mean, the float64 nearest to that of the exact sum. There is at least one value."""
        return float(Fraction(self._total(), self.count) * self._unit())

    def mean_and_std(self) -> tuple[float, float]:
        """Return the mean and the population standard deviation, from exact sums. There is at least one value."""
        base, total = self._top - _DIGITS + 1, self._total()
        squares = sum((n if a == b else 2 * n) << _BITS * (a + b - 2 * base) for (a, b), n in self._products.items())
        spread = max(self.count * squares - total * total, 0)
        # 64 binary places below the point keep the root of the smallest integer to full float64 precision.
        root = Fraction(math.isqrt(spread << 128), 1 << 64)
        return self.mean(), float(root / self.count * self._unit())

    def _unit(self) -> Fraction:
        """Return the value of 1 in the lowest digit that counts."""
        return Fraction(2) ** (_BITS * (self._top - _DIGITS + 1))

    def _total(self) -> int:
        """Return the sum of all values in that unit."""
        base = self._top - _DIGITS + 1
        return sum(n << _BITS * (place - base) for place, n in self._sums.items())


class Extremes:
    """The smallest and largest value of a column; exact."""

    def __init__(self) -> None:
        self.count = 0
        self.minimum = math.inf
        self.maximum = -math.inf

    def add(self, column: pa.ChunkedArray, name: str, step: str) -> None:
        """Take the values of a column that are not missing.

        Raises:
            RequestError: The column holds no numbers, or an infinity.
        """
        values = present(column, name, step)
        if len(values):
            self.count += len(values)
            self.minimum = min(self.minimum, float(values.min()))
            self.maximum = max(self.maximum, float(values.max()))

    def __add__(self, other: Extremes) -> Extremes:
        both = Extremes()
        both.count = self.count + other.count
        both.minimum = min(self.minimum, other.minimum)
        both.maximum = max(self.maximum, other.maximum)
        return both

    def times(self, count: int) -> Extremes:
        """Return the extremes of all values taken so many times."""
        both = Extremes()
        both.count, both.minimum, both.maximum = self.count * count, self.minimum, self.maximum
        return both
