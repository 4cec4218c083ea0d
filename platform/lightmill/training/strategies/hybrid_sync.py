"""All-reduce inside groups of workers, parameter servers between the groups.

For groups whose workers are close to each other, such as those of one node: only one worker of a group reaches the
servers, and a slow group holds up no other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from lightmill.errors import RequestError
from lightmill.records.specs import TrainSpec
from lightmill.records.training import HybridSyncSpec
from lightmill.training.objectives import Step
from lightmill.training.strategies.averaging import add_over_workers, spread
from lightmill.training.strategies.parameter_server import ParameterServer


class HybridSync(ParameterServer):
    """The workers of a group compute one step together; groups meet at the servers, with their consistency.

    With `bsp` between groups a step is that of one process with the whole batch. Else a group's gradient is the mean
    over all that its workers counted, whatever part of it each had.
    """

    name = "hybrid_sync"

    @classmethod
    def check(cls, spec: TrainSpec, module: nn.Module, workers: int) -> None:
        """See the base."""
        super().check(spec, module, workers)
        size = _size(spec)
        if workers % size:
            raise RequestError(
                f"strategy.group_size {size} does not divide {workers} workers; use a divisor, or another number of "
                "workers."
            )

    @property
    def pushers(self) -> int:
        """See the base: one for each group."""
        return self.setting.team.world // _size(self.setting.spec)

    @property
    def pusher(self) -> int:
        """See the base: the number of the group."""
        return self.setting.team.rank // _size(self.setting.spec)

    @property
    def pushes_early(self) -> bool:
        """See the base: gradients are added up in the group first."""
        return False

    def prepare(self, module: nn.Module) -> None:
        """See the base."""
        super().prepare(module)
        self._group: dist.ProcessGroup | None = None
        self._count = 0.0
        size = _size(self.setting.spec)
        if size > 1:
            for first in range(0, self.setting.team.world, size):
                made = dist.new_group(list(range(first, first + size)))
                if first == self.pusher * size:
                    self._group = made if isinstance(made, dist.ProcessGroup) else None

    def settle(self, steps: Sequence[Step]) -> None:
        """See the base."""
        if self._group is None:
            super().settle(steps)
            return
        self._add_up_group(steps)
        if dist.get_rank(self._group) == 0:
            super().settle(steps)
        self._from_first()

    def _add_up_group(self, steps: Sequence[Step]) -> None:
        """Make the gradients of all workers of the group their mean."""
        for parameter in self._trained.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self._trained.values() if parameter.grad is not None]
        if self.synchronous:
            add_over_workers(gradients, 1 / _size(self.setting.spec), self._group)
            return
        count = torch.stack([torch.as_tensor(step.count) for step in steps]).sum().float().to(gradients[0].device)
        total = count.clone()
        dist.all_reduce(total, group=self._group)
        add_over_workers(gradients, float(count / total.clamp(min=1)), self._group)

    def _from_first(self) -> None:
        """Give the parameters of the group's first worker to the others."""
        values = [parameter.detach() for parameter in self._trained.values()]
        for dtype in {value.dtype for value in values}:
            some = [value for value in values if value.dtype == dtype]
            flat = torch.cat([value.reshape(-1) for value in some])
            dist.broadcast(flat, src=self.pusher * _size(self.setting.spec), group=self._group)
            spread(flat, some)


def _size(spec: TrainSpec) -> int:
    return spec.strategy.group_size if isinstance(spec.strategy, HybridSyncSpec) else 1
