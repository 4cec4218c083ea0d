"""The mean of tensors over workers, as few messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import nn


def add_over_workers(tensors: Sequence[torch.Tensor], factor: float, group: dist.ProcessGroup | None = None) -> None:
    """Replace each tensor by its sum over workers, after `factor`: one message for each kind of number."""
    for some in _by_dtype(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in some]).mul_(factor)
        dist.all_reduce(flat, group=group)
        spread(flat, some)


def spread(flat: torch.Tensor, tensors: Sequence[torch.Tensor]) -> None:
    """Copy consecutive parts of a flat tensor into tensors."""
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def moving_buffers(module: nn.Module) -> list[torch.Tensor]:
    """Return a module's buffers that are means of what it saw, such as those of batch normalization."""
    return [buffer for buffer in module.buffers() if buffer.is_floating_point()]


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, each once, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _by_dtype(tensors: Iterable[torch.Tensor]) -> list[list[torch.Tensor]]:
    found: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.dtype, []).append(tensor.detach())
    return list(found.values())
