"""The core of a parameter server: some parameters, their optimizer, and who may go on.

Nothing here waits, sends or starts a thread: equal calls in equal order give equal bits. Rules:

- A worker's clock is the number of its pushes. It *may go* when its consistency allows another step.
- `bsp`: the gradients of all workers for one step are averaged in the order of workers, then applied once. A worker may
  go when its step was applied.
- `asp`: a worker may always go. `ssp`: it may go while it is at most `staleness` steps ahead of the slowest (Q. Ho et
  al., "More effective distributed ML via a stale synchronous parallel parameter server", 2013).
- Without `bsp`, the mean of every `accumulate` pushes is applied; `flush` applies what waits.
- The schedule counts steps of the run, not updates: it sees the number of pushes over the number of workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lightmill.errors import RequestError
from lightmill.records.base import Record
from lightmill.records.specs import TrainSpec
from lightmill.records.training import Consistency
from lightmill.training.optimization import Updater
from lightmill.training.optimization.states import State, load_module_state, module_state

Array = npt.NDArray[np.floating[Any]]
Gradients = tuple[Array | None, ...]
Parameters = tuple[Array, ...]


class ServerSetting(Record):
    """What a server is told when it starts.

    `workers` push to it: workers of the run, or groups of them. `steps` and `epoch_steps` are of the run.
    """

    spec: TrainSpec
    workers: int
    steps: int
    epoch_steps: int
    consistency: Consistency
    staleness: int = 0
    accumulate: int = 1

    @property
    def clips(self) -> bool:
        """Whether gradients are clipped here, once all of them are known; else workers clip their own."""
        return self.consistency == "bsp" and self.spec.clip_norm is not None


class Counts(Record):
    """What a server measured.

    Attributes:
        pushes: Gradients taken.
        applied: Gradients that went into an update.
        updates: Updates of the parameters.
        grants: How often a worker was given parameters to go on with.
        ahead: The steps that workers were ahead of the slowest when they went on, summed over grants.
        ahead_most: The largest of them.
        unseen: The updates that a gradient's parameters did not contain when it arrived, summed over pushes.
        unseen_most: The largest of them.
    """

    pushes: int = 0
    applied: int = 0
    updates: int = 0
    grants: int = 0
    ahead: int = 0
    ahead_most: int = 0
    unseen: int = 0
    unseen_most: int = 0


class Shard:
    """Some parameters of a model, on the CPU.

    Attributes:
        names: The parameters, in the order in which gradients and parameters are passed.
        clocks: The pushes of each worker since the start.
        applied: The pushes that went into an update since the start.
    """

    def __init__(self, setting: ServerSetting, values: Mapping[str, Array]) -> None:
        """Take over copies of the values."""
        self._setting = setting
        self.names = tuple(values)
        self._module = module_of(values)
        named = dict(self._module.named_parameters())
        self._parameters = [named[name] for name in self.names]
        self._updater = Updater(
            {name: named[name] for name in self.names},
            setting.spec if setting.consistency == "bsp" else without_regularizers(setting.spec),
            setting.steps,
            setting.epoch_steps,
            torch.device("cpu"),
            lambda own: own if self._norm is None else own.new_tensor(self._norm),
        )
        self._norm: float | None = None
        self._snapshot: Parameters | None = None
        self.counts = Counts()
        self._begin(0)

    def _begin(self, pushes: int) -> None:
        """Begin with all workers at the same step."""
        self.clocks = [0] * self._setting.workers
        self._seen = [0] * self._setting.workers
        self._waiting: dict[int, Gradients] | list[Gradients] = {} if self._setting.consistency == "bsp" else []
        self._pushes = pushes
        self.applied = 0
        self._updates = 0
        self._ready = False

    def push(self, worker: int, gradients: Gradients) -> None:
        """Take the gradients of a worker's step; None where a parameter took no part in it.

        Raises:
            RequestError: They are of other parameters, or the worker pushes twice in a step of `bsp`.
        """
        if len(gradients) != len(self.names):
            raise RequestError(f"Worker {worker} pushes {len(gradients)} gradients for {len(self.names)} parameters.")
        self._count(pushes=1, unseen=self._updates - self._seen[worker])
        self.clocks[worker] += 1
        self._pushes += 1
        if isinstance(self._waiting, list):
            self._waiting.append(gradients)
            if len(self._waiting) >= self._setting.accumulate:
                self._average(self._waiting)
                self._apply()
            return
        if worker in self._waiting:
            raise RequestError(f"Worker {worker} pushes twice in one step; `bsp` takes one push of each worker.")
        self._waiting[worker] = gradients
        if len(self._waiting) == self._setting.workers:
            self._average([self._waiting[number] for number in range(self._setting.workers)])
            self._ready = True
            if not self._setting.clips:
                self._apply()

    def gathered(self, worker: int) -> bool:
        """Whether all gradients of this worker's last step are here (`bsp`)."""
        return self._ready or self.may_go(worker)

    def squared_norm(self) -> float:
        """Return the squared norm of the gradients that are gathered and not applied yet."""
        l1 = self._setting.spec.l1
        gradients = [p.grad.add(p.detach().sign(), alpha=l1) for p in self._parameters if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) ** 2

    def settle(self, norm: float) -> None:
        """Apply the gradients that are gathered; `norm` is that of the gradients of all servers."""
        if self._ready:
            self._apply(norm)

    def may_go(self, worker: int) -> bool:
        """Whether a worker may compute its next step."""
        if self._setting.consistency == "asp":
            return True
        if self._setting.consistency == "ssp":
            return self.ahead(worker) <= self._setting.staleness
        return self.clocks[worker] * self._setting.workers <= self.applied

    def ahead(self, worker: int) -> int:
        """Return by how many steps a worker is ahead of the slowest."""
        return self.clocks[worker] - min(self.clocks)

    def grant(self, worker: int) -> Parameters:
        """Return the parameters for a worker's next step; they never change."""
        self._count(grants=1, ahead=self.ahead(worker))
        self._seen[worker] = self._updates
        return self.parameters()

    def parameters(self) -> Parameters:
        """Return the parameters as they are; what is returned never changes."""
        if self._snapshot is None:
            self._snapshot = tuple(parameter.detach().numpy().copy() for parameter in self._parameters)
        return self._snapshot

    def flush(self) -> None:
        """Apply the mean of the gradients that wait for others to come; not for `bsp`, where none wait."""
        if isinstance(self._waiting, list) and self._waiting:
            self._average(self._waiting)
            self._apply()

    def take_counts(self) -> Counts:
        """Return what was measured since the last call."""
        found, self.counts = self.counts, Counts()
        return found

    def averaged(self) -> Parameters:
        """Return the exponential moving averages, in the order of `names`; empty without `ema`."""
        return tuple(self._updater.averaged[name].numpy().copy() for name in self.names if self._updater.averaged)

    def state(self) -> State:
        """Return parameters, optimizer, averages and the steps done, in the form of `module_state`, as copies."""
        found = module_state(self._module, self._updater)
        return _copied(found) | {"updates": torch.tensor(self._pushes // self._setting.workers)}

    def load(self, state: State) -> None:
        """Go on from such a state; all workers begin at the same step, and no gradients wait."""
        load_module_state(self._module, self._updater, state)
        self._updater.zero()
        self._snapshot = None
        self._begin(int(state["updates"]) * self._setting.workers)

    def _average(self, pushed: list[Gradients]) -> None:
        for place, parameter in enumerate(self._parameters):
            found = [array for one in pushed if (array := one[place]) is not None]
            parameter.grad = None
            if found:
                total = torch.from_numpy(np.array(found[0]))
                for more in found[1:]:
                    np.add(total.numpy(), more, out=total.numpy())
                parameter.grad = total.div_(len(pushed)).to(parameter.dtype)

    def _apply(self, norm: float | None = None) -> None:
        self._norm = norm
        self._updater.step = (self._pushes - 1) // self._setting.workers
        self._updater.apply()
        self._updater.zero()
        applied = len(self._waiting)
        self._waiting.clear()
        self._ready = False
        self._snapshot = None
        self.applied += applied
        self._updates += 1
        self._count(applied=applied, updates=1)

    def _count(self, **more: int) -> None:
        old = self.counts.model_dump()
        most = {f"{name}_most": max(old[f"{name}_most"], more[name]) for name in ("ahead", "unseen") if name in more}
        self.counts = Counts.model_construct(**old | {name: old[name] + value for name, value in more.items()} | most)


def without_regularizers(spec: TrainSpec) -> TrainSpec:
    """Return a specification whose updates neither clip nor add L1: workers did both to what they push."""
    return spec.model_copy(update={"clip_norm": None, "l1": 0.0})


def module_of(values: Mapping[str, Array]) -> nn.Module:
    """Return a module that has copies of some values as its parameters, by their names with dots."""
    root = nn.Module()
    for name, value in values.items():
        *path, leaf = name.split(".")
        node = root
        for part in path:
            if part not in node._modules:
                node.add_module(part, nn.Module())
            node = node.get_submodule(part)
        node.register_parameter(leaf, nn.Parameter(torch.from_numpy(np.array(value))))
    return root


def _copied(state: State) -> State:
    """Return a nested state whose tensors are copies."""
    found: State = {}
    for key, value in state.items():
        if isinstance(value, dict):
            found[key] = _copied(value)
        else:
            found[key] = value.detach().clone() if isinstance(value, torch.Tensor) else value
    return found
