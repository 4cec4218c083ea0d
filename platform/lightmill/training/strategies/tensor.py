"""Tensor parallelism: each layer's matrices are split over workers that compute the same rows.

M. Shoeybi et al., "Megatron-LM: Training multi-billion parameter language models using model parallelism" (2019).
"""

from __future__ import annotations

from lightmill.training.strategies.meshed import Meshed


class Tensor(Meshed):
    """Matrices are split by the plan of the architecture; gradients are averaged over the data direction."""

    name = "tensor"
