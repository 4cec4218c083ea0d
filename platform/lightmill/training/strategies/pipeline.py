"""Pipeline parallelism: consecutive layers on different workers, which pass on what they return for microbatches."""

from __future__ import annotations

from lightmill.training.strategies.meshed import Meshed


class Pipeline(Meshed):
    """Stages are cut by the plan of the architecture; gradients are averaged over the data direction."""

    name = "pipeline"
