"""Context parallelism: the tokens of each row are computed by several workers.

Each computes queries, keys and values of its positions, and gathers the keys and values of all of them for attention;
the rest of the model looks at one token at a time. A. Grattafiori et al., "The Llama 3 herd of models" (2024), 3.3.2.
Of torch's own (`torch.distributed.tensor.experimental.context_parallel`) the kernels take no mask, which rows packed
from several documents need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from lightmill.errors import RequestError
from lightmill.models.plans import plan_of
from lightmill.records.specs import TrainSpec
from lightmill.training.objectives import Batch, Step
from lightmill.training.strategies.layout import CONTEXT, layout_of
from lightmill.training.strategies.meshed import Meshed
from lightmill.training.strategies.pipe import inputs_of
from lightmill.training.strategies.whole import forward


class Context(Meshed):
    """Every worker has the whole model; gradients are added over the parts of rows and averaged over the rows."""

    name = "context"

    @classmethod
    def check(cls, spec: TrainSpec, module: nn.Module, workers: int) -> None:
        """See the base."""
        super().check(spec, module, workers)
        size = layout_of(spec.strategy, workers).context
        if size == 1:
            return
        plan = plan_of(module)
        if plan is None or not plan.context or spec.objective != "causal_lm":
            raise RequestError(
                f"strategy is 'context', which splits the tokens of rows, and architecture {spec.architecture.name!r} "
                f"with objective {spec.objective!r} does not predict each token; use 'decoder' with 'causal_lm', or "
                "another strategy."
            )
        length = spec.architecture.arguments.get("context")
        if isinstance(length, int):
            check_length(length, size)

    @property
    def counts(self) -> bool:
        """See the base: all workers count, each its part of the rows."""
        return True

    def gatherer(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """See the base."""
        group, rank, size = self._group(CONTEXT), self.place.context, self.layout.context
        return lambda values: _Gather.apply(values, group, rank, size)

    def forward(self, batch: Batch) -> Step:
        """Return the loss of a worker's part of the rows.

        What follows the last token of the part is the first of the next: it is looked at, but not computed.
        """
        size = self.layout.context
        if size == 1:
            return super().forward(batch)
        length = batch[0].shape[1]
        check_length(length, size)
        start = self.place.context * length // size
        end = start + length // size
        inputs = inputs_of(self.setting.objective, batch)
        piece = tuple(tensor[:, start : end + 1] for tensor in batch)
        return forward(self.setting, _Part(self.module, inputs, slice(start, end), piece[0].shape[1]), piece)

    def share(self, batch: Batch, step: Step) -> torch.Tensor | float:
        """Return how much of what is predicted in the rows this worker predicts."""
        if self.layout.context == 1:
            return 1.0
        return step.count / torch.as_tensor(self.setting.objective.count(batch)).clamp(min=1)


class _Part(nn.Module):
    """Stands for the model: it computes some positions of whole rows, and returns as many as are looked at."""

    def __init__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], part: slice, length: int) -> None:
        super().__init__()
        self._module, self._inputs, self._part, self._length = [module], inputs, part, length

    def forward(self, *_: torch.Tensor) -> torch.Tensor:
        """Return [batch, length, values], of which one more than were computed is 0."""
        found = self._module[0](*self._inputs, part=self._part)
        return functional.pad(found, (0, 0, 0, self._length - found.shape[1]))


class _Gather(torch.autograd.Function):
    """Joins the parts of all workers along the last but one dimension; the gradient adds up what all did with one."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, group: dist.ProcessGroup, rank: int, size: int) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.group, ctx.rank, ctx.size = group, rank, size
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(size)]
        dist.all_gather(parts, values.contiguous(), group=group)
        return torch.cat(parts, dim=-2)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = gradient.contiguous()
        dist.all_reduce(total, group=ctx.group)  # gloo scatters no faster than it reduces
        return total.chunk(ctx.size, dim=-2)[ctx.rank], None, None, None


def check_length(length: int, size: int) -> None:
    """Refuse rows whose tokens cannot be divided evenly."""
    if length % size:
        raise RequestError(
            f"rows have {length} tokens, which do not divide by {size} context parallel workers; set strategy.size to "
            f"a divisor of {length}, or pack rows of another length."
        )
