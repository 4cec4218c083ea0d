"""The binary cross-entropy of a label of two classes, with one logit."""

from __future__ import annotations

import torch
from torch.nn import functional

from lightmill.errors import RequestError
from lightmill.records.assets import DatasetCard
from lightmill.records.signature import Architecture
from lightmill.training.objectives.asked import Asked
from lightmill.training.objectives.port import NOTHING
from lightmill.training.objectives.supervised import OfClasses


class BinaryCrossEntropy(OfClasses):
    """The model gives the logit of the second class; batches are as for `CrossEntropy`."""

    name = "bce"

    def __init__(self, card: DatasetCard, architecture: Architecture, asked: Asked = NOTHING) -> None:
        if card.classes and len(card.classes) != 2:
            raise RequestError(
                f"`objective: bce` needs a label of two classes, and there are {len(card.classes)}; use cross_entropy."
            )
        super().__init__(card, architecture, asked)
        asked.refuse_others(self.name, "label_smoothing")
        self._smoothing = asked.number("label_smoothing", 0.0, 0.0, 1.0)

    def outputs(self) -> int:
        """See the base."""
        return 1

    def predicted(self, outputs: torch.Tensor) -> torch.Tensor:
        """See the base."""
        return (outputs[:, 0] > 0).long()

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See the base."""
        weights = self.weights_on(outputs.device)
        wanted = target.to(outputs.dtype) * (1 - self._smoothing) + self._smoothing / 2
        return functional.binary_cross_entropy_with_logits(
            outputs[:, 0], wanted, weight=None if weights is None else weights[target]
        )
