"""Choices among replicas, as functions of what is known of them. Pure: chance comes in as a `random.Random`.

Sources: power of two choices: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (IEEE TPDS
12(10), 2001). Consistent hashing: D. Karger et al. (STOC 1997); with bounded loads: V. Mirrokni, M. Thorup and M.
Zadimoghaddam, "Consistent Hashing with Bounded Loads" (SODA 2018).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from random import Random

POINTS = 100
"""Points of each replica on the ring; its share of keys then differs from the mean by about a tenth."""


def round_robin(turn: int, count: int) -> int:
    """Return the place of the replica whose turn it is."""
    return turn % count


def weighted(weights: Sequence[float], draw: Random) -> int:
    """Return a place by chance, as likely as its weight; all alike if no weight is above 0."""
    kept = [max(0.0, weight) for weight in weights]
    if sum(kept) <= 0:
        return draw.randrange(len(weights))
    return draw.choices(range(len(kept)), kept)[0]


def power_of_two(loads: Sequence[float], draw: Random) -> int:
    """Return the less loaded of two places drawn by chance."""
    if len(loads) == 1:
        return 0
    first = draw.randrange(len(loads))
    second = (first + 1 + draw.randrange(len(loads) - 1)) % len(loads)
    return second if loads[second] < loads[first] else first


def least_loaded(loads: Sequence[float], draw: Random) -> int:
    """Return a place with the least load, by chance among several."""
    least = min(loads)
    places = [place for place, load in enumerate(loads) if load == least]
    return places[0] if len(places) == 1 else draw.choice(places)


class HashRing:
    """Names on a ring: a key belongs to the next name clockwise. A name that comes or goes moves its own keys only."""

    def __init__(self, names: Sequence[str], points: int = POINTS) -> None:
        self.names = frozenset(names)
        placed = sorted((_position(f"{name}:{point}"), name) for name in self.names for point in range(points))
        self._positions = [position for position, _ in placed]
        self._owners = [name for _, name in placed]

    def walk(self, key: str) -> Iterator[str]:
        """Return the names in the order in which they would take a key: its owner first, each once."""
        start = bisect_right(self._positions, _position(key))
        seen: set[str] = set()
        for step in range(len(self._owners)):
            name = self._owners[(start + step) % len(self._owners)]
            if name not in seen:
                seen.add(name)
                yield name
                if len(seen) == len(self.names):
                    return


def bounded(ring: HashRing, key: str, loads: Mapping[str, float], bound: float) -> str:
    """Return the first name for a key that would then have at most `bound` times the mean load.

    With m requests among n names, one of which is this request, none takes more than ceil(bound * m / n).
    """
    most = math.ceil(bound * (sum(loads.values()) + 1) / len(ring.names))
    last = ""
    for name in ring.walk(key):
        if loads.get(name, 0) + 1 <= most:
            return name
        last = last or name
    return last


def _position(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
