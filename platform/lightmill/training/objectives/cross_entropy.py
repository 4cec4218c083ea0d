"""The cross-entropy of a label among classes."""

from __future__ import annotations

import torch
from torch.nn import functional

from lightmill.records.assets import DatasetCard
from lightmill.records.signature import Architecture
from lightmill.training.objectives.asked import Asked
from lightmill.training.objectives.port import NOTHING
from lightmill.training.objectives.supervised import OfClasses


class CrossEntropy(OfClasses):
    """Batches are features float32 [batch, features], or token ids and segments, and labels int64 [batch].

    The loss is the mean over rows, each times the weight of its class. `label_smoothing` is of C. Szegedy et al.,
    "Rethinking the Inception architecture" (2016).
    """

    name = "cross_entropy"

    def __init__(self, card: DatasetCard, architecture: Architecture, asked: Asked = NOTHING) -> None:
        super().__init__(card, architecture, asked)
        asked.refuse_others(self.name, "label_smoothing")
        self._smoothing = asked.number("label_smoothing", 0.0, 0.0, 1.0)

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See the base."""
        weights = self.weights_on(outputs.device)
        if weights is None:
            return functional.cross_entropy(outputs, target, label_smoothing=self._smoothing)
        total = functional.cross_entropy(
            outputs, target, weight=weights, label_smoothing=self._smoothing, reduction="sum"
        )
        return total / len(target)
