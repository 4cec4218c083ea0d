"""What models answer, and the signatures that say so. No torch: the control plane and the batcher use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from lightmill.models.inputs import input_specs
from lightmill.records.fitted import TabularPreparation
from lightmill.records.signature import Signature, TensorSpec

PROBABILITIES = "probabilities"
LABEL = "label"
LOGITS = "logits"
VALUE = "value"


class Rows(Protocol):
    """Answers to some rows, which can be cut and joined."""

    def rows(self, start: int, stop: int) -> Self:
        """Return the answers of rows start to stop."""
        ...

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the answers of some requests as one."""
        ...

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return every output by its name, rows first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """`probabilities` float32 [rows, classes] and `label` int64 [rows], the index of the likeliest class."""

    probabilities: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]

    def rows(self, start: int, stop: int) -> Answers:
        """Return the answers of rows start to stop."""
        return Answers(probabilities=self.probabilities[start:stop], label=self.label[start:stop])

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """Return the answers of some requests as one."""
        return cls(
            probabilities=np.concatenate([part.probabilities for part in parts]),
            label=np.concatenate([part.label for part in parts]),
        )

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return every output by its name."""
        return {PROBABILITIES: self.probabilities, LABEL: self.label}


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """`logits` float32 [rows, length, vocabulary]: what may follow each token."""

    logits: npt.NDArray[np.float32]

    def rows(self, start: int, stop: int) -> Logits:
        """Return the answers of rows start to stop."""
        return Logits(logits=self.logits[start:stop])

    @classmethod
    def joined(cls, parts: Sequence[Logits]) -> Logits:
        """Return the answers of some requests as one."""
        return cls(logits=np.concatenate([part.logits for part in parts]))

    def cut(self, length: int) -> Logits:
        """Return the answers to rows of `length` tokens that were filled up on the right."""
        return self if self.logits.shape[1] == length else Logits(logits=self.logits[:, :length])

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return every output by its name."""
        return {LOGITS: self.logits}


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """`value` float32 [rows]: the number that a regression predicts for each."""

    value: npt.NDArray[np.float32]

    def rows(self, start: int, stop: int) -> Values:
        """Return the answers of rows start to stop."""
        return Values(value=self.value[start:stop])

    @classmethod
    def joined(cls, parts: Sequence[Values]) -> Values:
        """Return the answers of some requests as one."""
        return cls(value=np.concatenate([part.value for part in parts]))

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return every output by its name."""
        return {VALUE: self.value}


def feature_inputs(features: TensorSpec, preparation: TabularPreparation | None = None) -> tuple[TensorSpec, ...]:
    """Return the inputs of a model of features: they as one input, or the columns they are prepared from."""
    single = TensorSpec(name=features.name, datatype="FP32", shape=(-1, *features.shape))
    return input_specs(preparation) if preparation else (single,)


def token_inputs(name: str) -> tuple[TensorSpec, ...]:
    """Return the input of a model of token ids: rows of any length."""
    return (TensorSpec(name=name, datatype="INT64", shape=(-1, -1)),)


def classifying(inputs: tuple[TensorSpec, ...], classes: int) -> Signature:
    """Return the signature of a classifier."""
    return Signature(
        inputs=inputs,
        outputs=(
            TensorSpec(name=PROBABILITIES, datatype="FP32", shape=(-1, classes)),
            TensorSpec(name=LABEL, datatype="INT64", shape=(-1,)),
        ),
    )


def regressing(inputs: tuple[TensorSpec, ...]) -> Signature:
    """Return the signature of a regression: one number for each row."""
    return Signature(inputs=inputs, outputs=(TensorSpec(name=VALUE, datatype="FP32", shape=(-1,)),))


def signature_of(features: TensorSpec, classes: int, preparation: TabularPreparation | None = None) -> Signature:
    """Return the signature of a classifier of features."""
    return classifying(feature_inputs(features, preparation), classes)


def signature_of_tokens(name: str, vocabulary: int) -> Signature:
    """Return the signature of a language model: token ids of any length to the logits of what follows each."""
    return Signature(
        inputs=token_inputs(name),
        outputs=(TensorSpec(name=LOGITS, datatype="FP32", shape=(-1, -1, vocabulary)),),
    )
