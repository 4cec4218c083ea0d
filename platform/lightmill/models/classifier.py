"""A classifier as it is served: preparation and module as one, from features in source units to answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lightmill.models.preprocessing import Features, Preparation
from lightmill.records.assets import ModelCard
from lightmill.records.signature import Signature, TensorSpec

PROBABILITIES = "probabilities"
LABEL = "label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """`probabilities` float32 [rows, classes] and `label` int64 [rows], the index of the likeliest class."""

    probabilities: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]

    def rows(self, start: int, stop: int) -> Answers:
        """Return the answers of rows start to stop."""
        return Answers(probabilities=self.probabilities[start:stop], label=self.label[start:stop])


def signature_of(features: TensorSpec, classes: int) -> Signature:
    """Return the signature of a classifier of these features: one input, two outputs."""
    return Signature(
        inputs=(TensorSpec(name=features.name, datatype="FP32", shape=(-1, *features.shape)),),
        outputs=(
            TensorSpec(name=PROBABILITIES, datatype="FP32", shape=(-1, classes)),
            TensorSpec(name=LABEL, datatype="INT64", shape=(-1,)),
        ),
    )


class Classifier:
    """Predicts on rows of features in source units; thread-safe, since nothing of it changes."""

    def __init__(self, card: ModelCard, module: nn.Module, device: str = "cpu") -> None:
        self.card = card
        self._module = module.eval().to(device)
        self._preparation = Preparation(card.preprocessing)
        self._device = torch.device(device)
        self._flat = int(np.prod(card.signature.inputs[0].shape[1:]))

    def predict(self, features: Features) -> Answers:
        """Return the answers for float32 [rows, *shape]."""
        prepared = self._preparation.apply(features.reshape(len(features), self._flat))
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(prepared)).to(self._device)
            probabilities = torch.softmax(self._module(batch).float(), dim=-1).cpu()
        return Answers(probabilities=probabilities.numpy(), label=probabilities.argmax(dim=-1).numpy())
