"""Optimizers of `torch.optim`, by the names of the specification."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from lightmill.errors import RequestError
from lightmill.records.specs import TrainSpec
from lightmill.records.training import OptimizerName
from lightmill.training.optimization.muon import MuonWithAdamW

OPTIMIZERS: dict[OptimizerName, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adamax": torch.optim.Adamax,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "rmsprop": torch.optim.RMSprop,
    "asgd": torch.optim.ASGD,
    "adafactor": torch.optim.Adafactor,
    "muon": MuonWithAdamW,
}
_FUSED: frozenset[OptimizerName] = frozenset({"sgd", "adam", "adamw", "adagrad"})
"""Those with a kernel that updates all parameters at once, on CPUs too; sharded parameters do without."""


def _is_plain(parameter: nn.Parameter) -> bool:
    """Whether a parameter is a tensor of real numbers in this process's memory, neither sharded nor without memory.

    Fake ones stand for such, where memory is planned.
    """
    return (
        type(parameter.data) in (torch.Tensor, FakeTensor)
        and parameter.is_floating_point()
        and parameter.device.type in ("cpu", "cuda")
    )


def build_optimizer(
    parameters: Iterable[nn.Parameter], spec: TrainSpec, names: Iterable[str] | None = None
) -> torch.optim.Optimizer:
    """Return the optimizer that a specification asks for, over the parameters that are trained.

    `names` are those of the parameters in the model, by which Muon tells embeddings from other matrices.

    Raises:
        RequestError: The optimizer does not take these arguments, or nothing is trained.
    """
    given = list(parameters)
    trained = [parameter for parameter in given if parameter.requires_grad]
    if not trained:
        raise RequestError("Nothing of the model is trained; freeze less in `start.freeze`.")
    fused = spec.optimizer.name in _FUSED and all(_is_plain(p) for p in trained)
    arguments = {"fused": True} if fused else {}
    arguments |= {name: tuple(v) if isinstance(v, list) else v for name, v in spec.optimizer.arguments.items()}
    try:
        if spec.optimizer.name == "muon":
            named = dict(zip(names or map(str, range(len(given))), given, strict=True))
            kept = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
            return MuonWithAdamW(kept, **{"lr": spec.learning_rate, "weight_decay": spec.weight_decay, **arguments})
        return OPTIMIZERS[spec.optimizer.name](
            trained, **{"lr": spec.learning_rate, "weight_decay": spec.weight_decay, **arguments}
        )
    except (TypeError, ValueError) as exc:
        raise RequestError(
            f"Optimizer {spec.optimizer.name!r} refuses the arguments {spec.optimizer.arguments}: {exc}."
        ) from exc
