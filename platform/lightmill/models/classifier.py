"""Models of features as they are served: preparation and module as one, from features to answers."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from lightmill.models.answers import Answers, Values
from lightmill.models.preprocessing import Features, Preparation
from lightmill.records.assets import ModelCard


class OfFeatures:
    """Computes on rows of features; thread-safe, since nothing of it changes.

    Features are in source units, but prepared already where the card has a `preparation` of named columns. `shape` is
    that of one row, `dtype` its type.
    """

    dtype = np.float32
    rows_together: int | None = None

    def __init__(self, card: ModelCard, module: nn.Module, device: str = "cpu") -> None:
        self.card = card
        self._module = module.eval().to(device)
        self._preparation = Preparation(card.preprocessing)
        self._device = torch.device(device)
        self.shape = (card.preparation.width,) if card.preparation else card.signature.inputs[0].shape[1:]
        self._flat = int(np.prod(self.shape))

    def outputs(self, features: Features) -> torch.Tensor:
        """Return what the module gives for float32 [rows, *shape], on the CPU."""
        prepared = self._preparation.apply(features.reshape(len(features), self._flat))
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(prepared)).to(self._device)
            return self._module(batch).float().cpu()


class Classifier(OfFeatures):
    """Tells classes apart."""

    def predict(self, features: Features) -> Answers:
        """Return the answers for float32 [rows, *shape]."""
        return answers(self.outputs(features))


class Regressor(OfFeatures):
    """Predicts a number."""

    def predict(self, features: Features) -> Values:
        """Return the answers for float32 [rows, *shape]."""
        return Values(value=self.outputs(features)[:, 0].numpy())


def probabilities(outputs: torch.Tensor) -> torch.Tensor:
    """Return the probability of each class [rows, classes] of what a module gives; of one logit, those of two."""
    if outputs.shape[-1] == 1:
        second = torch.sigmoid(outputs)
        return torch.cat([1 - second, second], dim=-1)
    return torch.softmax(outputs, dim=-1)


def answers(outputs: torch.Tensor) -> Answers:
    """Return what a classifier answers when its module gives outputs float32 [rows, classes] or [rows, 1]."""
    with torch.inference_mode():
        found = probabilities(outputs)
        return Answers(probabilities=found.numpy(), label=found.argmax(dim=-1).numpy())
