"""How much each part of a step weighs, so that all parts together are one mean over the whole step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from lightmill.training.objectives import Batch
from lightmill.training.strategies import Part, Strategy


def cut(batch: Batch, parts: int) -> list[Batch]:
    """Return a batch in so many parts, as even as can be; some have no rows if there are fewer."""
    if parts == 1:
        return [batch]
    return [tuple(found) for found in zip(*(tensor.tensor_split(parts) for tensor in batch), strict=True)]


def weighed(strategy: Strategy, batches: Sequence[Batch], rows: int) -> list[Part]:
    """Return the parts of a worker's share of a step.

    Args:
        strategy: Says whether a step is weighed over all workers or over this one's rows alone.
        batches: This worker's share, in parts.
        rows: The rows of the step over all shares.

    Where equally many rows count equally, weights follow from the rows; else the workers send one number each, which
    travels while the first part is computed.
    """
    objective, world = strategy.setting.objective, strategy.data_world
    if not strategy.synchronous or (world == 1 and objective.weighted):
        counts = [torch.as_tensor(objective.count(batch)) for batch in batches]
        total = torch.stack(counts).sum().clamp(min=1)
        return [_known(batch, float(count / total)) for batch, count in zip(batches, counts, strict=True)]
    if not objective.weighted:
        return [_known(batch, len(batch[0]) * world / max(1, rows)) for batch in batches]
    counts = [torch.as_tensor(objective.count(batch), dtype=torch.float64) for batch in batches]
    sent = torch.stack(counts).sum().to(strategy.setting.team.device)
    work = dist.all_reduce(sent, async_op=True)
    replicas = strategy.setting.team.world / world  # workers that split a model have the same rows

    def weight(count: torch.Tensor) -> torch.Tensor:
        if work is not None:
            work.wait()
        return (count.to(sent.device) * world * replicas / sent.clamp(min=1.0)).float()

    return [
        Part(batch=batch, weight=lambda count=count: weight(count))
        for batch, count in zip(batches, counts, strict=True)
    ]


def _known(batch: Batch, weight: float) -> Part:
    return Part(batch=batch, weight=lambda: weight)
