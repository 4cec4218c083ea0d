"""One balancer for each place that chooses: choices by the name in a specification, and what they remember."""

from __future__ import annotations

from collections.abc import Sequence
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


class Balancer:
    """Chooses as `spec` says; `seed` makes its chance repeatable."""

    def __init__(self, spec: BalancingSpec, seed: int | None = None) -> None:
        self._spec = spec
        self._draw = Random(seed)  # noqa: S311 - spreads load, keeps no secret
        self._turn = 0
        self._ring = HashRing(())

    def choose(
        self,
        loads: Sequence[float],
        *,
        names: Sequence[str] = (),
        weights: Sequence[float] = (),
        key: str = "",
    ) -> int:
        """Return the place of the replica that takes a request.

        Args:
            loads: The requests that each replica has; there is one replica at least.
            names: What replicas are called, each differently; only keys need them.
            weights: Only `weighted` needs them; without, all are alike.
            key: What `hash` and `prefix` keep together; without, a least loaded one is chosen.
        """
        kind = self._spec.name
        if kind == "round_robin":
            self._turn += 1
            return round_robin(self._turn - 1, len(loads))
        if kind == "random":
            return self._draw.randrange(len(loads))
        if kind == "weighted":
            return weighted(weights or [1.0] * len(loads), self._draw)
        if kind == "power_of_two":
            return power_of_two(loads, self._draw)
        if key and kind in ("hash", "prefix"):
            return self._by_key(names, loads, key if kind == "hash" else key[: self._spec.prefix_length])
        return least_loaded(loads, self._draw)

    def _by_key(self, names: Sequence[str], loads: Sequence[float], key: str) -> int:
        if self._ring.names != set(names):
            self._ring = HashRing(names)
        return names.index(bounded(self._ring, key, dict(zip(names, loads, strict=True)), self._spec.bound))
