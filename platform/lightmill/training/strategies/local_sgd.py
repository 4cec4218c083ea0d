"""Local steps, then averaging with an outer optimizer.

S. U. Stich, "Local SGD converges fast and communicates little" (2019); A. Douillard et al., "DiLoCo: Distributed
low-communication training of language models" (2023). A round is `local_steps` steps. At its end the mean of the
workers' changes, weighed by what each of them counted, is the gradient of an outer SGD with Nesterov momentum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from lightmill.records.training import LocalSgdSpec
from lightmill.training.objectives import Step
from lightmill.training.strategies.averaging import add_over_workers, leaders, moving_buffers, trained
from lightmill.training.strategies.port import Part, State
from lightmill.training.strategies.whole import WholeModule


class LocalSgd(WholeModule):
    """Each worker steps alone; the state of the inner optimizer never travels.

    A round ends early with an epoch and before a checkpoint, so that both are of one model. A checkpoint has the inner
    optimizer's state of the leader, and all workers go on from it.
    """

    name = "local_sgd"
    synchronous = False

    def prepare(self, module: nn.Module) -> None:
        """See the base."""
        super().prepare(module)
        spec = self.setting.spec.strategy
        self._spec = spec if isinstance(spec, LocalSgdSpec) else LocalSgdSpec()
        self._trained = trained(self.module)
        self._outer = {name: parameter.detach().clone() for name, parameter in self._trained.items()}
        self._momentum = {name: torch.zeros_like(value) for name, value in self._outer.items()}
        self._since = 0
        self._counted = torch.zeros((), device=self.setting.team.device)
        self._rounds = 0
        self._moved: float = 0.0

    def step(self, parts: Sequence[Part]) -> Sequence[Step]:
        """See the base."""
        steps = super().step(parts)
        for step in steps:
            self._counted += torch.as_tensor(step.count).to(self._counted)
        self._since += 1
        if self._since == self._spec.local_steps:
            self._end_round()
        return steps

    def end_epoch(self) -> None:
        """End the round."""
        if self._since:
            self._end_round()
        self._average(moving_buffers(self.module))

    def state(self) -> State:
        """End the round, and return the form of `WholeModule` with the outer momentum besides."""
        if self._since:
            self.end_epoch()
        found = super().state()
        own = leaders(found["optimizer"], self.setting.team)
        return found | {"optimizer": own, "outer": dict(self._momentum)}

    def load_state(self, state: State) -> None:
        """See the base."""
        super().load_state(state)
        with torch.no_grad():
            for name, value in self._momentum.items():
                value.copy_(state["outer"][name])
                self._outer[name].copy_(self._trained[name])
        self._since = 0

    def measured(self) -> dict[str, float]:
        """Return `rounds` since the last call, and `outer_change`: the norm of the mean change of the last one."""
        found = {"rounds": float(self._rounds), "outer_change": self._moved}
        self._rounds = 0
        return found

    @torch.no_grad()
    def _end_round(self) -> None:
        """Replace the parameters of all workers by what the outer optimizer makes of their mean change."""
        changes = [self._outer[name] - parameter for name, parameter in self._trained.items()]
        if self.setting.team.world > 1:
            total = self._counted.clone()
            dist.all_reduce(total)
            add_over_workers(changes, float(self._counted / total.clamp(min=1)))
        self._moved = float(torch.nn.utils.get_total_norm(changes))
        outer = self._spec.outer
        for (name, parameter), change in zip(self._trained.items(), changes, strict=True):
            momentum = self._momentum[name].mul_(outer.momentum).add_(change)
            direction = change.add(momentum, alpha=outer.momentum) if outer.nesterov else momentum
            self._outer[name].sub_(direction, alpha=outer.learning_rate)
            parameter.copy_(self._outer[name])
        self._average(list(self.updater.averaged.values()))
        self._since = 0
        self._counted.zero_()
        self._rounds += 1

    def _average(self, tensors: list[torch.Tensor]) -> None:
        if tensors and self.setting.team.world > 1:
            add_over_workers(tensors, 1 / self.setting.team.world)
