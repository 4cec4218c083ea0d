"""Gossip on a ring: workers step alone and average their parameters with those of a neighbour.

X. Lian et al., "Can decentralized algorithms outperform centralized algorithms?" (2017), with a ring in one direction:
worker i sends to i + 1 and takes the mean of its own parameters and those of i - 1. What all workers have together
never changes by that, and their differences shrink. A worker waits for its neighbour only, never for all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from lightmill.records.training import RingSpec
from lightmill.training.objectives import Step
from lightmill.training.strategies.averaging import add_over_workers, leaders, moving_buffers, spread, trained
from lightmill.training.strategies.port import Part, State
from lightmill.training.strategies.whole import WholeModule


class Ring(WholeModule):
    """Each worker has its own optimizer, whose state never travels.

    At the end of an epoch and before a checkpoint the parameters of all are averaged, so that both are of one model. A
    checkpoint has the optimizer's state of the leader, and all workers go on from it.
    """

    name = "ring"
    synchronous = False

    def prepare(self, module: nn.Module) -> None:
        """See the base."""
        super().prepare(module)
        spec = self.setting.spec.strategy
        self._every = spec.every_steps if isinstance(spec, RingSpec) else 1
        self._trained = trained(self.module)
        self._since = 0
        self._exchanges = 0
        self._distance = 0.0

    def step(self, parts: Sequence[Part]) -> Sequence[Step]:
        """See the base."""
        steps = super().step(parts)
        self._since += 1
        if self._since % self._every == 0 and self.setting.team.world > 1:
            self._gossip()
        return steps

    def end_epoch(self) -> None:
        """Average the parameters of all workers."""
        world = self.setting.team.world
        if not self._since or world == 1:
            return
        own = [parameter.detach().clone() for parameter in self._trained.values()]
        values = [parameter.detach() for parameter in self._trained.values()]
        add_over_workers([*values, *self.updater.averaged.values(), *moving_buffers(self.module)], 1 / world)
        self._distance = float(
            torch.nn.utils.get_total_norm([mine - mean for mine, mean in zip(own, values, strict=True)])
        )
        self._since = 0

    def state(self) -> State:
        """Average the parameters of all workers, and return the form of `WholeModule`."""
        self.end_epoch()
        found = super().state()
        return found | {"optimizer": leaders(found["optimizer"], self.setting.team)}

    def measured(self) -> dict[str, float]:
        """Return `exchanges` since the last call, and `distance`: of the leader's parameters from the last mean."""
        found = {"exchanges": float(self._exchanges), "distance": self._distance}
        self._exchanges = 0
        return found

    @torch.no_grad()
    def _gossip(self) -> None:
        rank, world = self.setting.team.rank, self.setting.team.world
        values = [parameter.detach() for parameter in self._trained.values()]
        for dtype in sorted({value.dtype for value in values}, key=str):
            some = [value for value in values if value.dtype == dtype]
            flat = torch.cat([value.reshape(-1) for value in some])
            other = torch.empty_like(flat)
            works = dist.batch_isend_irecv(
                [
                    dist.P2POp(dist.isend, flat, (rank + 1) % world),
                    dist.P2POp(dist.irecv, other, (rank - 1) % world),
                ]
            )
            for work in works:
                work.wait()
            spread(flat.add(other).mul_(0.5), some)
        self._exchanges += 1
