"""Synchronous data parallelism.

S. Li et al., "PyTorch Distributed: Experiences on accelerating data parallel training" (2020).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightmill.records.training import DdpSpec
from lightmill.training.strategies.whole import WholeModule


class Ddp(WholeModule):
    """Gradients are averaged over all workers while they are computed."""

    name = "ddp"

    def prepare(self, module: nn.Module) -> None:
        """See the base."""
        super().prepare(module)
        spec, team = self.setting.spec.strategy, self.setting.team
        self._parallel: DistributedDataParallel | None = None
        if team.world > 1:
            self._parallel = DistributedDataParallel(
                self.module,
                device_ids=[team.device] if team.device.type == "cuda" else None,
                bucket_cap_mb=spec.bucket_mb if isinstance(spec, DdpSpec) else None,
                gradient_as_bucket_view=True,  # one copy of the gradients less, in memory and in time
            )

    def forward_module(self) -> nn.Module:
        """Return the wrapped module, which sends gradients."""
        return self._parallel or self.module

    def sync(self, *, last: bool) -> AbstractContextManager[None]:
        """Send gradients with the last part only."""
        return nullcontext() if last or self._parallel is None else self._parallel.no_sync()
