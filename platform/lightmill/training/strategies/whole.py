"""What strategies share whose workers each have the whole module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from lightmill.training.objectives import Batch, Step
from lightmill.training.optimization import Updater, made_ready
from lightmill.training.optimization.states import load_module_state, module_state
from lightmill.training.optimization.updater import Norm, computing_in
from lightmill.training.strategies.port import Part, Setting, State, Strategy


class WholeModule(Strategy):
    """Every worker has the module, computes its own rows, and updates its own weights.

    Attributes:
        module: The module as given.
        updater: What updates it.
    """

    module: nn.Module
    updater: Updater

    def prepare(self, module: nn.Module) -> None:
        """See the base."""
        self.module = made_ready(module.to(self.setting.team.device), self.setting.spec, self.setting.team.device)
        self.updater = make_updater(self.setting, dict(self.module.named_parameters()))

    def forward_module(self) -> nn.Module:
        """Return what computes: the module, or what wraps it."""
        return self.module

    def step(self, parts: Sequence[Part]) -> Sequence[Step]:
        """See the base."""
        if not self.module.training:
            self.forward_module().train()
        self.updater.zero()
        steps = self.gradients(parts)
        self.updater.apply()
        return steps

    def gradients(self, parts: Sequence[Part]) -> list[Step]:
        """Compute the gradients of all parts."""
        steps: list[Step] = []
        for place, part in enumerate(parts):
            with self.sync(last=place == len(parts) - 1):
                steps.append(forward(self.setting, self.forward_module(), part.batch))
                self.updater.backward(weighted(steps[-1].loss, part.weight))
        return steps

    def sync(self, *, last: bool) -> AbstractContextManager[None]:
        """Return the context of a part: whether its gradients travel."""
        del last
        return nullcontext()

    def infer(self, batch: Batch) -> Sequence[Step]:
        """See the base."""
        self.module.eval()
        with torch.inference_mode():
            return [forward(self.setting, self.module, batch)]

    def state(self) -> State:
        """See the base."""
        return module_state(self.module, self.updater)

    def load_state(self, state: State) -> None:
        """See the base."""
        load_module_state(self.module, self.updater, state)

    def weights(self) -> dict[str, torch.Tensor]:
        """See the base."""
        if not self.setting.team.leads:
            return {}
        with self.updater.evaluated():
            return {name: value.detach().cpu().clone() for name, value in self.module.state_dict().items()}


def make_updater(setting: Setting, named: dict[str, nn.Parameter], norm_of_all: Norm | None = None) -> Updater:
    """Return what updates these parameters in a run."""
    team = setting.team
    return Updater(named, setting.spec, setting.steps, setting.epoch_steps, team.device, norm_of_all)


def forward(setting: Setting, module: nn.Module, batch: Batch) -> Step:
    """Return the loss of a batch, computed in the precision that is asked for."""
    with computing_in(setting.spec.precision, setting.team.device):
        return setting.objective.step(module, batch)


def weighted(loss: torch.Tensor, weight: Callable[[], torch.Tensor | float]) -> torch.Tensor:
    """Return the loss times its weight."""
    factor = weight()
    return loss if isinstance(factor, float) and factor == 1.0 else loss * factor


__all__ = ["WholeModule", "forward", "load_module_state", "make_updater", "module_state", "weighted"]
