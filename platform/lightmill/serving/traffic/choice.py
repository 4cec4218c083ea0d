"""Which version answers a request. Pure: a plan and a point between 0 and 100 in, a candidate or None out.

The points from 0 on belong to candidates of fixed weight, in the order of the specification; those below 100 to the
canary; those between to the stable version. So a larger share of the canary only moves requests from the stable version
to it: whoever was with the canary stays there, and nobody changes between others. A larger fixed weight keeps its own
requests too, and pushes those of the candidates after it along.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from lightmill.records.traffic import TrafficPlan, TrafficTarget

_SPACE = float(1 << 64)


def point_of(endpoint: str, value: bytes) -> float:
    """Return the point from 0 to below 100 of whoever sends `value`: the same in every replica, for ever.

    Endpoints are independent of each other: the endpoint's name is part of what is hashed (BLAKE2b, RFC 7693).
    """
    digest = hashlib.blake2b(value, digest_size=8, key=endpoint.encode()[:64]).digest()
    return int.from_bytes(digest, "big") / _SPACE * 100.0


class Shares:
    """The shares of one plan, ready to choose from."""

    __slots__ = ("_canaries", "_fixed", "targets")

    def __init__(self, plan: TrafficPlan) -> None:
        self.targets = tuple(target for target in plan.targets if target.percent > 0)
        self._fixed: list[tuple[float, TrafficTarget]] = []
        self._canaries: list[tuple[float, TrafficTarget]] = []
        upto, down = 0.0, 100.0
        for target in self.targets:
            if target.canary:
                down -= target.percent
                self._canaries.append((down, target))
            else:
                upto += target.percent
                self._fixed.append((upto, target))

    def choose(self, point: float) -> TrafficTarget | None:
        """Return who answers a request at this point; None for the stable version."""
        for end, target in self._fixed:
            if point < end:
                return target
        for start, target in self._canaries:
            if point >= start:
                return target
        return None


def sticky_value(plan: TrafficPlan, header: Callable[[bytes], bytes | None], caller: str) -> bytes | None:
    """Return what keeps a request with its version; None where it goes its own way.

    Args:
        plan: Says what it goes by.
        header: Gives the value of a header by its name in lower case.
        caller: The id of the API key, or of the token's issuer and subject; empty where there is none.
    """
    if plan.sticky.by == "header":
        return header(plan.sticky.header.encode())
    if plan.sticky.by == "key" and caller:
        return caller.encode()
    return None
