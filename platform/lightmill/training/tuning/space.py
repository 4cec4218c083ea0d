"""From a space to configurations: the same ones for equal seeds."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

from pydantic import JsonValue

from lightmill.records.tuning import Dimension, TuneSpec, Values


def configurations(spec: TuneSpec) -> Iterator[Values]:
    """Yield configurations in the order in which they are tried.

    A grid ends after its last combination. Else they never end: each round has every combination of the grids, with
    values drawn anew for what is not a grid. What the n-th is follows from the seed and n alone.
    """
    whole = spec.algorithm.name == "grid"
    lists = {path: d.listed for path, d in spec.search.items() if d.grid or whole}
    drawn = {path: d for path, d in spec.search.items() if path not in lists}
    for number in itertools.count():
        rank = number % spec.combinations
        if whole and number and not rank:
            return
        generator = random.Random(f"{spec.seed}:{number}")  # noqa: S311 - drawn to be repeatable, not to be secret
        combination = dict(zip(lists, _combination(list(lists.values()), rank), strict=True))
        values = combination | {path: draw(dimension, generator) for path, dimension in drawn.items()}
        yield {path: values[path] for path in spec.search}


def draw(dimension: Dimension, generator: random.Random) -> JsonValue:
    """Return a value of a dimension."""
    if dimension.uniform:
        return generator.uniform(*dimension.uniform)
    if dimension.loguniform:
        low, high = dimension.loguniform
        return min(max(math.exp(generator.uniform(math.log(low), math.log(high))), low), high)
    if dimension.integer:
        first, last = dimension.integer
        return generator.randrange(first, last + 1, dimension.step)
    return generator.choice(dimension.listed)


def nearest(dimension: Dimension, value: JsonValue) -> JsonValue:
    """Return a value that a dimension may have: what was changed a little may have left it."""
    if dimension.listed or not isinstance(value, int | float):
        return value
    if dimension.integer:
        first, last = dimension.integer
        steps = (last - first) // dimension.step
        return first + min(max(round((value - first) / dimension.step), 0), steps) * dimension.step
    low, high = dimension.bounds or (value, value)
    return min(max(value, low), high)


def _combination(lists: list[tuple[JsonValue, ...]], rank: int) -> list[JsonValue]:
    """Return the combination with this rank; the last list changes fastest."""
    found: list[JsonValue] = []
    for values in reversed(lists):
        rank, place = divmod(rank, len(values))
        found.append(values[place])
    return found[::-1]
