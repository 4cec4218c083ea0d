"""How workers train together, by name: one file each, behind one interface."""

from lightmill.training.strategies.ddp import Ddp
from lightmill.training.strategies.port import Part, Setting, State, Strategy

STRATEGIES: dict[str, type[Strategy]] = {kind.name: kind for kind in (Ddp,)}

__all__ = ["STRATEGIES", "Ddp", "Part", "Setting", "State", "Strategy"]
