"""The interface of strategies: how the workers of a run compute one step together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import nn

from lightmill.errors import RequestError
from lightmill.records.specs import TrainSpec
from lightmill.training.objectives import Batch, Objective, Step
from lightmill.training.team import Team

State = dict[str, Any]
"""A nested dictionary of tensors (plain or DTensor), numbers and texts, as torch.distributed.checkpoint takes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a worker's rows of one step.

    `weight()` is what its mean loss is multiplied by, so that gradients averaged over the data parallel workers are
    those of the mean over the whole step; it may wait for a message, so call it after the forward pass.
    """

    batch: Batch
    weight: Callable[[], torch.Tensor | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a strategy works on. `epoch_steps` are the updates of an epoch."""

    spec: TrainSpec
    team: Team
    objective: Objective
    epoch_steps: int

    @property
    def steps(self) -> int:
        """The updates of the whole run."""
        return self.epoch_steps * self.spec.epochs


class Strategy(ABC):
    """One worker's side of a strategy. All workers call all methods in the same order; most are collective.

    Attributes:
        name: What the specification calls it.
        synchronous: Whether a step is that of one process with the whole batch, so that parts are weighted over all
            workers; else over this worker's rows alone.
    """

    name: ClassVar[str]
    synchronous: bool = True

    def __init__(self, setting: Setting) -> None:
        """Look at the team; nothing is computed or sent yet."""
        self.setting = setting

    @classmethod
    def check(cls, spec: TrainSpec, module: nn.Module, workers: int) -> None:
        """Refuse what cannot work, before any worker starts.

        Args:
            spec: The run's specification.
            module: The model on the meta device: it has shapes and no memory.
            workers: A number of workers that the run may have.

        Raises:
            RequestError: The model has no plan for this strategy, or sizes do not divide.
        """
        del spec, module, workers

    @property
    def data_rank(self) -> int:
        """Which share of each step's rows this worker computes; workers that split a model share a rank."""
        return self.setting.team.rank

    @property
    def data_world(self) -> int:
        """Into how many shares each step's rows are divided."""
        return self.setting.team.world

    def combined(self, totals: torch.Tensor | None) -> torch.Tensor:
        """Return sums over all shares of a step, on every worker; `totals` are None where nothing was counted."""
        if totals is None:
            raise RequestError("A worker got no rows to train on; lower `workers` or `batch_size`.")
        found = totals.to(self.setting.team.device, copy=True)
        if self.setting.team.world > 1:
            dist.all_reduce(found)
        return found.cpu()

    @abstractmethod
    def prepare(self, module: nn.Module) -> None:
        """Take over a freshly initialized module, the same in all workers, on the CPU, and make the optimizer."""

    @abstractmethod
    def step(self, parts: Sequence[Part]) -> Sequence[Step]:
        """Compute the parts of a step and update the weights.

        Returns what is counted: on every worker of a data rank, or on one of them and nothing on the others.
        """

    @abstractmethod
    def infer(self, batch: Batch) -> Sequence[Step]:
        """Compute loss and outputs with no gradients, all workers equally often; what is returned is as for `step`."""

    @abstractmethod
    def state(self) -> State:
        """Return this worker's part of everything a run goes on from: weights, optimizer, averages, counters."""

    @abstractmethod
    def load_state(self, state: State) -> None:
        """Take over a state of the form that `state` gives, filled by a checkpoint."""

    @abstractmethod
    def weights(self) -> dict[str, torch.Tensor]:
        """Return the whole model's weights on the CPU, averaged ones if there are any, to the leader; others get {}."""

    def end_epoch(self) -> None:
        """Bring workers together that went their own ways; called after the last step of every epoch."""
        return

    def measured(self) -> dict[str, float]:
        """Return what the strategy measured since the last call, such as staleness; the leader's is reported."""
        return {}

    def close(self) -> None:
        """End what the strategy started."""
        return
