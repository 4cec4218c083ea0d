"""How workers train together, by name: one file each, behind one interface.

A strategy is imported when it is asked for: what splits models loads much of torch that others do without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from lightmill.training.strategies.ddp import Ddp
from lightmill.training.strategies.port import Part, Setting, State, Strategy

_CLASSES = {
    "context": "Context",
    "ddp": "Ddp",
    "fsdp": "Fsdp",
    "hybrid": "Hybrid",
    "hybrid_sync": "HybridSync",
    "local_sgd": "LocalSgd",
    "parameter_server": "ParameterServer",
    "pipeline": "Pipeline",
    "ring": "Ring",
    "tensor": "Tensor",
}


class _Strategies(Mapping[str, type[Strategy]]):
    """The strategies by the names of the specification."""

    def __getitem__(self, name: str) -> type[Strategy]:
        return getattr(import_module(f"{__name__}.{name}"), _CLASSES[name])

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


STRATEGIES: Mapping[str, type[Strategy]] = _Strategies()

__all__ = ["STRATEGIES", "Ddp", "Part", "Setting", "State", "Strategy"]
