"""How models are split, a plan for each architecture; `PLANS` has them all.

A plan says between which layers a pipeline may cut, which matrices tensor parallel workers have a part of, and whether
the tokens of a row may be computed by several workers. Sources: M. Shoeybi et al., "Megatron-LM: Training multi-billion
parameter language models using model parallelism" (2019), for the pairs of matrices split by columns, then by rows;
V. Korthikanti et al., "Reducing activation recomputation in large transformer models" (2022), for what lies between.
"""

from __future__ import annotations

from torch import nn

from lightmill.models.plans.perceptrons import PerceptronPlan, TabularPlan
from lightmill.models.plans.port import Plan
from lightmill.models.plans.transformers import DecoderPlan, EncoderPlan

PLANS: list[type[Plan]] = [DecoderPlan, EncoderPlan, PerceptronPlan, TabularPlan]


def plan_of(module: nn.Module) -> Plan | None:
    """Return the plan of a whole module, if its architecture has one."""
    return next((kind(module) for kind in PLANS if kind.fits(module)), None)


def layers_of(module: nn.Module) -> list[nn.Module]:
    """Return what is gathered at a time where parameters are sharded: the members of a module's outermost lists.

    Embeddings and normalizations stay with the module itself.
    """
    found: list[nn.Module] = []
    listed = isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential)
    for child in module.children():
        matrices = any(parameter.ndim > 1 for parameter in child.parameters())
        if isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential) or not listed:
            found += layers_of(child)
        elif matrices and not isinstance(child, nn.Embedding):
            found.append(child)
    return found


__all__ = ["PLANS", "Plan", "layers_of", "plan_of"]
