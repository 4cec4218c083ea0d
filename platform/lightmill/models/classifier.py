"""A classifier as it is served: preparation and module as one, from features to answers."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from lightmill.models.answers import Answers
from lightmill.models.preprocessing import Features, Preparation
from lightmill.records.assets import ModelCard


class Classifier:
    """Predicts on rows of features; thread-safe, since nothing of it changes.

    Features are in source units, but prepared already where the card has a `preparation` of named columns. `shape` is
    that of one row.
    """

    def __init__(self, card: ModelCard, module: nn.Module, device: str = "cpu") -> None:
        self.card = card
        self._module = module.eval().to(device)
        self._preparation = Preparation(card.preprocessing)
        self._device = torch.device(device)
        self.shape = (card.preparation.width,) if card.preparation else card.signature.inputs[0].shape[1:]
        self._flat = int(np.prod(self.shape))

    def predict(self, features: Features) -> Answers:
        """Return the answers for float32 [rows, *shape]."""
        prepared = self._preparation.apply(features.reshape(len(features), self._flat))
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(prepared)).to(self._device)
            probabilities = torch.softmax(self._module(batch).float(), dim=-1).cpu()
        return Answers(probabilities=probabilities.numpy(), label=probabilities.argmax(dim=-1).numpy())
