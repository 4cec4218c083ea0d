"""One balancer for each place that chooses: the choices by the name that a specification gives, and what they remember."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from lightmill.records.balancing import BalancingSpec
from lightmill.serving.routing.choices import (
    HashRing,
    bounded,
    least_loaded,
    power_of_two,
    round_robin,
    weighted,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A replica that could take a request: its name, the requests that it has, and its weight."""

    name: str
    load: float
    weight: float = 1.0


class Balancer:
    """Chooses as `spec` says; `seed` makes its chance repeatable."""

    def __init__(self, spec: BalancingSpec, seed: int | None = None) -> None:
        self._spec = spec
        self._draw = Random(seed)  # noqa: S311 - spreads load, keeps no secret
        self._turn = 0
        self._ring = HashRing(())

    def choose(self, candidates: Sequence[Candidate], key: str = "") -> int:
        """Return the place of the replica that takes a request; there must be one at least."""
        kind = self._spec.name
        if kind == "round_robin":
            self._turn += 1
            return round_robin(self._turn - 1, len(candidates))
        if kind == "random":
            return self._draw.randrange(len(candidates))
        if kind == "weighted":
            return weighted([one.weight for one in candidates], self._draw)
        loads = [one.load for one in candidates]
        if kind == "power_of_two":
            return power_of_two(loads, self._draw)
        if key and kind in ("hash", "prefix"):
            return self._by_key(candidates, key if kind == "hash" else key[: self._spec.prefix_length])
        return least_loaded(loads, self._draw)

    def _by_key(self, candidates: Sequence[Candidate], key: str) -> int:
        places = {one.name: place for place, one in enumerate(candidates)}
        if self._ring.names != places.keys():
            self._ring = HashRing(tuple(places))
        return places[bounded(self._ring, key, {one.name: one.load for one in candidates}, self._spec.bound)]
