"""Small Python values between the workers of a run, beside the tensors of its steps."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist

from lightmill.training.team import Team

T = TypeVar("T")


class Exchange:
    """A process group of its own over gloo: one thread may use it while another one trains.

    All workers make it, and call its methods, in the same order.
    """

    def __init__(self, team: Team) -> None:
        """Make the group, if there is more than one worker."""
        self._leads = team.leads
        self._world = team.world
        self._group: Any = dist.new_group(backend="gloo") if team.world > 1 else None

    def gathered(self, value: T) -> list[T]:
        """Return the values of all workers by rank, on every worker."""
        if self._group is None:
            return [value]
        found: list[T | None] = [None] * self._world
        dist.all_gather_object(found, value, group=self._group)
        return found  # pyright: ignore[reportReturnType] - every place was filled

    def number(self, value: int) -> int:
        """Return the leader's number on every worker, at the price of one small message."""
        if self._group is None:
            return value
        found = torch.tensor(value)
        dist.broadcast(found, src=0, group=self._group)
        return int(found)

    def from_leader(self, value: T) -> T:
        """Return the leader's value on every worker."""
        if self._group is None:
            return value
        found: list[T] = [value]
        dist.broadcast_object_list(found, src=0, group=self._group)
        return found[0]
