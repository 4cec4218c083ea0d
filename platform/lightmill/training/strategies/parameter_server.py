"""Parameters on servers: workers push gradients and are given parameters.

M. Li et al., "Scaling distributed machine learning with the parameter server" (2014). The optimizer, its schedule and
the averaged weights are the servers'. A worker begins to push a server's share as soon as the backward pass has filled
it, and goes on when all servers have answered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

from lightmill.errors import RequestError
from lightmill.records.specs import TrainSpec
from lightmill.records.training import HybridSyncSpec, ParameterServerSpec
from lightmill.training.objectives import Batch, Step
from lightmill.training.servers.dealing import Dealt, deal_parameters
from lightmill.training.servers.opening import open_servers
from lightmill.training.servers.port import Servers
from lightmill.training.servers.shard import Array, Counts, Gradients, ServerSetting
from lightmill.training.strategies.averaging import add_over_workers, moving_buffers, trained
from lightmill.training.strategies.port import Part, Setting, State, Strategy
from lightmill.training.strategies.whole import forward, weighted

_DTYPES = (torch.float32, torch.float64)


class ParameterServer(Strategy):
    """Workers with the whole module each, and servers that update it.

    `bsp` steps as one process with the whole batch. `asp` and `ssp` apply the gradients of each worker's own rows as
    they come, so that an epoch has as many updates as pushes (over `accumulate`); workers clip their own gradients.
    Buffers of the module stay with the workers and are averaged when an epoch ends.
    """

    name = "parameter_server"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.synchronous = _spec(setting.spec).consistency == "bsp"
        self._servers: Servers | None = None
        self._apart = False

    @classmethod
    def check(cls, spec: TrainSpec, module: nn.Module, workers: int) -> None:
        """See the base."""
        chosen, parameters = _spec(spec), trained(module)
        if spec.precision == "fp16":
            raise RequestError(
                f"Strategy {cls.name!r} has no loss scale that all workers share; set `precision: bf16` or `fp32`."
            )
        if chosen.consistency == "bsp" and chosen.accumulate > 1:
            raise RequestError(
                f"strategy.accumulate {chosen.accumulate} is not for `consistency: bsp`, whose servers take the "
                "gradients of all workers together; leave it out, or use `asp` or `ssp`."
            )
        if chosen.servers > len(parameters):
            raise RequestError(
                f"strategy.servers {chosen.servers} is more than the model's {len(parameters)} trained parameters; "
                f"use at most {len(parameters)}."
            )
        odd = next((name for name, value in parameters.items() if value.dtype not in _DTYPES), None)
        if odd is not None:
            raise RequestError(
                f"Strategy {cls.name!r} takes parameters of float32 or float64; {odd!r} is {parameters[odd].dtype}."
            )

    @property
    def pushers(self) -> int:
        """How many push gradients to the servers."""
        return self.setting.team.world

    @property
    def pusher(self) -> int:
        """Which of them this worker is."""
        return self.setting.team.rank

    @property
    def links(self) -> Servers:
        """The servers, once they are there."""
        if self._servers is None:
            raise RequestError("The strategy has no servers yet; call `prepare` first.")
        return self._servers

    def prepare(self, module: nn.Module) -> None:
        """See the base."""
        self.module = module.to(self.setting.team.device)
        self._trained = trained(self.module)
        chosen = _spec(self.setting.spec)
        self._dealt: Dealt = deal_parameters({n: p.numel() for n, p in self._trained.items()}, chosen.servers)
        self._told = ServerSetting(
            spec=self.setting.spec,
            workers=self.pushers,
            steps=self.setting.steps,
            epoch_steps=self.setting.epoch_steps,
            consistency=chosen.consistency,
            staleness=chosen.staleness,
            accumulate=chosen.accumulate,
        )
        values = [{name: array_of(self._trained[name]) for name in names} for names in self._dealt]
        self._servers = open_servers(self.setting.team, self._told, values)
        self._due: dict[int, int] = {}  # gradients that a server's push still waits for, while they are computed
        if self.pushes_early:
            for server, names in enumerate(self._dealt):
                for name in names:
                    self._trained[name].register_post_accumulate_grad_hook(lambda _, s=server: self._filled(s))

    @property
    def pushes_early(self) -> bool:
        """Whether a server's share may be pushed before the other gradients are known."""
        return self.setting.spec.clip_norm is None

    def step(self, parts: Sequence[Part]) -> Sequence[Step]:
        """See the base."""
        self.module.train()
        for parameter in self._trained.values():
            parameter.grad = None
        self._apart = True
        steps = [self._part(part, last=place == len(parts) - 1) for place, part in enumerate(parts)]
        self.settle(steps)
        return steps

    def settle(self, steps: Sequence[Step]) -> None:
        """Bring the gradients to the servers, and take the parameters for the next step."""
        del steps
        if not self.synchronous and self.setting.spec.clip_norm is not None:
            self._add_l1(self._trained.values())
            nn.utils.clip_grad_norm_(self._trained.values(), self.setting.spec.clip_norm)
        if self._told.clips:
            pushed = [(self.pusher, self._gradients(server)) for server in range(self.links.count)]
            norm = math.sqrt(sum(self.links.ask("offer", pushed)))
            for server in range(self.links.count):
                self.links.begin(server, "settle", self.pusher, norm)
        else:
            for server in list(self._due) if self.pushes_early else range(self.links.count):
                self._push(server)  # what took no part in the step has no gradient and never said so
        self._due = {}
        self._take()

    def infer(self, batch: Batch) -> Sequence[Step]:
        """See the base."""
        self.module.eval()
        with torch.inference_mode():
            return [forward(self.setting, self.module, batch)]

    def state(self) -> State:
        """Return the form of `module_state`; optimizer and averages come from the servers.

        All workers call it after equally many steps: it waits for them, and what waits at the servers is applied, so
        that no gradient is lost.
        """
        self.end_epoch()
        found = self.links.ask("state")
        self._together()
        groups = [one["optimizer"]["param_groups"] for one in found]
        merged = [
            same[0] | {"params": [name for group in same for name in group["params"]]}
            for same in zip(*groups, strict=True)
        ]
        return {
            "model": get_model_state_dict(self.module),
            "optimizer": {
                "state": {k: value for one in found for k, value in one["optimizer"]["state"].items()},
                "param_groups": merged,
            },
            "averaged": {name: value for one in found for name, value in one["averaged"].items()},
            "updates": found[0]["updates"],
        }

    def load_state(self, state: State) -> None:
        """See the base; the number of servers and of workers may have changed."""
        set_model_state_dict(self.module, state["model"])
        if self.setting.team.leads:
            self.links.ask("load", [(part_of(state, set(names)),) for names in self._dealt])
        self._together()
        self._apart = False

    def weights(self) -> dict[str, torch.Tensor]:
        """See the base."""
        if not self.setting.team.leads:
            return {}
        if self.setting.spec.ema is not None:
            for server, arrays in enumerate(self.links.ask("averaged")):
                self._put(server, arrays)
        found = {name: value.detach().cpu().clone() for name, value in self.module.state_dict().items()}
        if self.setting.spec.ema is not None:
            for server, arrays in enumerate(self.links.ask("parameters")):
                self._put(server, arrays)
        return found

    def end_epoch(self) -> None:
        """Wait for all workers, apply what waits at the servers, and take the parameters that come of it."""
        if not self._apart:
            return
        self._together()
        if self.setting.team.leads:
            self.links.ask("flush")
        self._together()
        for server, arrays in enumerate(self.links.ask("parameters")):
            self._put(server, arrays)
        buffers = moving_buffers(self.module)
        if buffers and self.setting.team.world > 1:
            add_over_workers(buffers, 1 / self.setting.team.world)
        self._together()  # a push of the next step must not be in what another worker takes
        self._apart = False

    def measured(self) -> dict[str, float]:
        """Return how stale the work since the last call was.

        `staleness`: the steps that a worker was ahead of the slowest when it began one. `unseen_updates`: the updates
        that the parameters of a gradient lacked when it came to a server. `server_updates`: of each server.
        """
        if not self.setting.team.leads:
            return {}
        counts: list[Counts] = self.links.ask("take_counts")
        grants, pushes = sum(one.grants for one in counts), sum(one.pushes for one in counts)
        return {
            "staleness_mean": sum(one.ahead for one in counts) / max(1, grants),
            "staleness_max": float(max(one.ahead_most for one in counts)),
            "unseen_updates_mean": sum(one.unseen for one in counts) / max(1, pushes),
            "unseen_updates_max": float(max(one.unseen_most for one in counts)),
            "server_updates": float(max(one.updates for one in counts)),
        }

    def close(self) -> None:
        """See the base."""
        if self._servers is not None:
            self._servers.close()

    def _part(self, part: Part, *, last: bool) -> Step:
        step = forward(self.setting, self.module, part.batch)
        loss = weighted(step.loss, part.weight)
        if last and self.pushes_early:
            self._due = {server: len(names) for server, names in enumerate(self._dealt)}
        loss.backward()
        return step

    def _filled(self, server: int) -> None:
        """Note that a gradient of a server's share is complete; push the share if it was the last."""
        if server not in self._due:
            return
        self._due[server] -= 1
        if not self._due[server]:
            self._push(server)

    def _push(self, server: int) -> None:
        self._due.pop(server, None)
        if not self.synchronous and self.setting.spec.clip_norm is None:
            self._add_l1([self._trained[name] for name in self._dealt[server]])
        self.links.begin(server, "exchange", self.pusher, self._gradients(server))

    def _add_l1(self, parameters: Iterable[nn.Parameter]) -> None:
        if self.setting.spec.l1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach().sign(), alpha=self.setting.spec.l1)

    def _gradients(self, server: int) -> Gradients:
        found = [self._trained[name].grad for name in self._dealt[server]]
        return tuple(None if gradient is None else array_of(gradient) for gradient in found)

    def _take(self) -> None:
        for server, arrays in self.links.answers():
            self._put(server, arrays)

    def _put(self, server: int, arrays: Sequence[Array]) -> None:
        with torch.no_grad():
            for name, array in zip(self._dealt[server], arrays, strict=True):
                parameter = self._trained[name]
                if parameter.device.type == "cpu":
                    np.copyto(parameter.detach().numpy(), array)
                else:
                    parameter.copy_(torch.from_numpy(np.array(array)))

    def _together(self) -> None:
        if self.setting.team.world > 1:
            dist.barrier()


def array_of(tensor: torch.Tensor) -> Array:
    """Return a tensor's numbers, not copied if they are on the CPU."""
    return tensor.detach().cpu().numpy()


def part_of(state: State, names: set[str]) -> State:
    """Return the part of a state, in the form of `module_state`, that is of some parameters."""
    optimizer = state["optimizer"]
    return {
        "model": {name: value for name, value in state["model"].items() if name in names},
        "optimizer": {
            "state": {name: value for name, value in optimizer["state"].items() if name in names},
            "param_groups": [
                group | {"params": [name for name in group["params"] if name in names]}
                for group in optimizer["param_groups"]
            ],
        },
        "averaged": {name: value for name, value in state["averaged"].items() if name in names},
        "updates": state["updates"],
    }


def _spec(spec: TrainSpec) -> ParameterServerSpec | HybridSyncSpec:
    if not isinstance(spec.strategy, ParameterServerSpec | HybridSyncSpec):
        raise RequestError(f"Strategy {spec.strategy.name!r} has no parameter servers.")
    return spec.strategy
