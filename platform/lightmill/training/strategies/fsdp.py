"""Parameters, gradients and optimizer state sharded over the workers.

Y. Zhao et al., "PyTorch FSDP: Experiences on scaling fully sharded data parallel" (2023), in its second form of a
DTensor for each parameter; S. Rajbhandari et al., "ZeRO: Memory optimizations toward training trillion parameter
models" (2020).
"""

from __future__ import annotations

from lightmill.training.strategies.meshed import Meshed


class Fsdp(Meshed):
    """A layer's parameters are gathered before it computes; its gradients are averaged and divided after."""

    name = "fsdp"
