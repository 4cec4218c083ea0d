"""What to unload so that a model fits: pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A model in memory: its weights, when it was used last, and whether a request uses it now."""

    id: str
    size_bytes: int
    used_s: float
    busy: bool = False


def to_unload(held: Iterable[Held], size_bytes: int, budget_bytes: int) -> list[str] | None:
    """Return which models to unload, least recently used first, so that one of `size_bytes` fits beside the rest.

    No more are unloaded than must be, and none that is used now. None if that is not enough.
    """
    models = list(held)
    over = sum(model.size_bytes for model in models) + size_bytes - budget_bytes
    found: list[str] = []
    for model in sorted((one for one in models if not one.busy), key=lambda one: one.used_s):
        if over <= 0:
            break
        found.append(model.id)
        over -= model.size_bytes
    return found if over <= 0 else None
