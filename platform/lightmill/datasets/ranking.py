"""Exact shares of random draws in memory that grows with the square root of the rows.

Every row draws a number, uniform in 64 bits. To give exactly k of n rows to a split one must know the k-th smallest
draw. It lies near k/n of the range: of n draws, the share below s has a standard deviation of sqrt(s (1 - s) / n). So
blocks count the draws below a window around s, and keep those in it; windows narrow as blocks add up, and that of the
sum lies within that of each part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightmill.datasets.digests import Words, mix64

DEVIATIONS = 7.0
"""A window's half width; a cut lies outside once in 10^11 draws of lots, and misses a share by a few rows then."""

END = 1 << 64


def draws(row_id: npt.NDArray[np.int64], seed: int) -> Words:
    """Return uint64 [rows], each row's own number: no two rows have the same, and another seed gives others."""
    salt = mix64(np.array([seed], dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    return mix64(mix64(row_id.view(np.uint64) ^ salt) + salt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The draws of one class about one cut: how many lie below the window, and uint64 those in it."""

    below: int
    near: Words


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDraws:
    """How many rows a class has, and a window for each cut."""

    count: int
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawStats:
    """What blocks say of their draws, by class key; they add up in any order.

    `shares` are the shares below each cut.
    """

    shares: tuple[float, ...]
    classes: dict[int, ClassDraws]

    @classmethod
    def of(cls, keys: Words, draw: Words, shares: Sequence[float]) -> DrawStats:
        """Return what rows say: their class keys and draws, uint64 [rows] each."""
        found, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
        windows: list[list[Window]] = [[] for _ in found]
        for share in shares:
            low, last = _bounds(share, counts)
            below = np.bincount(place[draw < low[place]], minlength=len(found))
            near = np.flatnonzero((draw >= low[place]) & (draw <= last[place]))
            near = near[np.argsort(place[near], kind="stable")]
            parts = np.split(draw[near], np.searchsorted(place[near], np.arange(1, len(found))))
            for index in range(len(found)):
                windows[index].append(Window(below=int(below[index]), near=parts[index]))
        classes = {
            int(key): ClassDraws(count=int(count), windows=tuple(own))
            for key, count, own in zip(found, counts, windows, strict=True)
        }
        return cls(shares=tuple(shares), classes=classes)

    def __add__(self, other: DrawStats) -> DrawStats:
        classes = dict(self.classes)
        for key, found in other.classes.items():
            classes[key] = _merged(classes[key], found, self.shares) if key in classes else found
        return DrawStats(shares=self.shares, classes=classes)

    def cut(self, key: int, place: int, rows: int) -> int | None:
        """Return the number below which exactly `rows` draws of a class lie, by the window `place`; None is no end."""
        window = self.classes[key].windows[place]
        low, last = (int(x[0]) for x in _bounds(self.shares[place], np.array([self.classes[key].count])))
        need = rows - window.below
        if need < 0:
            return low
        if need >= len(window.near):
            return None if last + 1 == END else last + 1
        return int(np.partition(window.near, need)[need])


def reached(draw: Words, cut: Sequence[int | None], place: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return bool [rows]: whether a draw is not below the cut at `place` (int64 [rows], an index into `cut`)."""
    numbers = np.array([0 if one is None else min(one, END - 1) for one in cut], dtype=np.uint64)
    endless = np.array([one is None for one in cut], dtype=np.bool_)
    if len(numbers) == 1:
        return np.zeros(len(draw), dtype=np.bool_) if endless[0] else draw >= numbers[0]
    return (draw >= numbers[place]) & ~endless[place]


def _bounds(share: float, counts: npt.NDArray[np.int64]) -> tuple[Words, Words]:
    """Return the first and the last number of the window of a share among so many draws, for each count."""
    halves = [DEVIATIONS * math.sqrt(share * (1 - share) / count) for count in counts.tolist()]
    low = [min(max(0, int((share - half) * 2.0**64)), END - 1) for half in halves]
    last = [min(END, int((share + half) * 2.0**64)) - 1 for half in halves]
    return np.array(low, dtype=np.uint64), np.array(last, dtype=np.uint64)


def _merged(one: ClassDraws, other: ClassDraws, shares: Sequence[float]) -> ClassDraws:
    count = one.count + other.count
    windows: list[Window] = []
    for share, first, second in zip(shares, one.windows, other.windows, strict=True):
        low, last = (bound[0] for bound in _bounds(share, np.array([count])))
        near = np.concatenate([first.near, second.near])
        below = first.below + second.below + int(np.count_nonzero(near < low))
        windows.append(Window(below=below, near=near[(near >= low) & (near <= last)]))
    return ClassDraws(count=count, windows=tuple(windows))
