"""The mean of tensors over workers, as few messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import nn

from lightmill.training.optimization.states import State
from lightmill.training.team import Team


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


def leaders(state: State, team: Team) -> State:
    """Return a nested state with the leader's tensors, on every worker; those given are left as they are.

    Workers write a checkpoint together, each some of its tensors, so that all of them must hold the same.
    """
    found: State = {}
    for key, value in state.items():
        if isinstance(value, dict):
            found[key] = leaders(value, team)
        elif isinstance(value, torch.Tensor) and team.world > 1:
            sent = value.detach().to(team.device, copy=True)
            dist.broadcast(sent, src=0)
            found[key] = sent.to(value.device)
        else:
            found[key] = value
    return found


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
