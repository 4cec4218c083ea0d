"""The processes of a run, as one of them sees them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """One of `world` workers, its number `rank`, where its tensors live, and the node it runs on, counted from 0."""

    rank: int
    world: int
    device: torch.device
    node: int = 0

    @classmethod
    def alone(cls, device: torch.device | None = None) -> Team:
        """Return a team of one."""
        return cls(rank=0, world=1, device=device or torch.device("cpu"))

    @classmethod
    def joined(cls, device: torch.device | None = None) -> Team:
        """Return the team of the process group that was initialized, or of one."""
        if not dist.is_initialized():
            return cls.alone(device)
        return cls(rank=dist.get_rank(), world=dist.get_world_size(), device=device or torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this worker speaks for all."""
        return self.rank == 0
