"""What a classifier answers, and the signature that says so. No torch: the control plane and the batcher use it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightmill.models.inputs import input_specs
from lightmill.records.fitted import TabularPreparation
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


def signature_of(features: TensorSpec, classes: int, preparation: TabularPreparation | None = None) -> Signature:
    """Return the signature of a classifier: its features as one input, or the columns they are prepared from."""
    single = TensorSpec(name=features.name, datatype="FP32", shape=(-1, *features.shape))
    return Signature(
        inputs=input_specs(preparation) if preparation else (single,),
        outputs=(
            TensorSpec(name=PROBABILITIES, datatype="FP32", shape=(-1, classes)),
            TensorSpec(name=LABEL, datatype="INT64", shape=(-1,)),
        ),
    )
