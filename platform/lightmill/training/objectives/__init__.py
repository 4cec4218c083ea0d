"""What training minimizes, by name: one file each, behind one interface."""

from lightmill.training.objectives.causal_lm import CausalLanguage
from lightmill.training.objectives.cross_entropy import CrossEntropy
from lightmill.training.objectives.port import Batch, Objective, Step

OBJECTIVES: dict[str, type[Objective]] = {kind.name: kind for kind in (CausalLanguage, CrossEntropy)}

__all__ = ["OBJECTIVES", "Batch", "CausalLanguage", "CrossEntropy", "Objective", "Step"]
