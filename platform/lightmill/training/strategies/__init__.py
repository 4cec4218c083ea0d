"""How workers train together, by name: one file each, behind one interface."""

from lightmill.training.strategies.context import Context
from lightmill.training.strategies.ddp import Ddp
from lightmill.training.strategies.fsdp import Fsdp
from lightmill.training.strategies.hybrid import Hybrid
from lightmill.training.strategies.hybrid_sync import HybridSync
from lightmill.training.strategies.local_sgd import LocalSgd
from lightmill.training.strategies.parameter_server import ParameterServer
from lightmill.training.strategies.pipeline import Pipeline
from lightmill.training.strategies.port import Part, Setting, State, Strategy
from lightmill.training.strategies.ring import Ring
from lightmill.training.strategies.tensor import Tensor

STRATEGIES: dict[str, type[Strategy]] = {
    kind.name: kind
    for kind in (Context, Ddp, Fsdp, Hybrid, HybridSync, LocalSgd, ParameterServer, Pipeline, Ring, Tensor)
}

__all__ = ["STRATEGIES", "Ddp", "Part", "Setting", "State", "Strategy"]
