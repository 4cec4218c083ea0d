"""What training minimizes, by name: one file each, behind one interface."""

from lightmill.records.assets import DatasetCard
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.training.objectives.asked import Asked
from lightmill.training.objectives.bce import BinaryCrossEntropy
from lightmill.training.objectives.causal_lm import CausalLanguage
from lightmill.training.objectives.cross_entropy import CrossEntropy
from lightmill.training.objectives.custom import CustomOfClasses, CustomOfNumbers
from lightmill.training.objectives.port import Batch, Objective, Step
from lightmill.training.objectives.regression import AbsoluteError, Huber, SquaredError

OBJECTIVES: dict[str, type[Objective]] = {
    kind.name: kind
    for kind in (
        BinaryCrossEntropy,
        CausalLanguage,
        CrossEntropy,
        CustomOfClasses,
        SquaredError,
        AbsoluteError,
        Huber,
    )
}


def build_objective(
    spec: TrainSpec, card: DatasetCard, architecture: Architecture | None = None, *, allow_python: bool = False
) -> Objective:
    """Return the objective of a specification on a dataset.

    Args:
        spec: The specification.
        card: The dataset's.
        architecture: The specification's by default, or that with its sizes.
        allow_python: Whether a custom objective may call a user's function.

    Raises:
        RequestError: The objective fits neither the dataset nor the architecture; see `Objective`.
    """
    kind = OBJECTIVES[spec.objective]
    if spec.objective == "custom" and spec.target is not None:
        kind = CustomOfNumbers
    return kind(card, architecture or spec.architecture, Asked.of(spec, allow_python=allow_python))


__all__ = [
    "OBJECTIVES",
    "Asked",
    "Batch",
    "CausalLanguage",
    "CrossEntropy",
    "Objective",
    "Step",
    "build_objective",
]
