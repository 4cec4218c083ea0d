"""What strategies share whose workers have parts of the model: on a mesh of data, pipeline, context and tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from lightmill.errors import RequestError
from lightmill.models.plans import Plan, layers_of, plan_of
from lightmill.records.specs import TrainSpec
from lightmill.training.objectives import Batch, Step
from lightmill.training.optimization import Updater, made_ready
from lightmill.training.strategies.layout import DATA, PIPELINE, TENSOR, Layout, layout_of
from lightmill.training.strategies.pipe import Pipe, padded
from lightmill.training.strategies.port import Part, Setting, State, Strategy
from lightmill.training.strategies.whole import forward, make_updater, weighted

BUCKET_BYTES = 25 << 20
# Those that look at a matrix as a whole: a worker with a part of it would do something else.
WHOLE_MATRIX = frozenset({"adafactor", "muon"})
_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


class Meshed(Strategy):
    """A worker has a stage of the layers, parts of its matrices, or shards of both, and updates what it has.

    Attributes:
        layout: The mesh's sizes.
        place: Where this worker is in it.
        module: What this worker computes.
        updater: What updates its parameters.
    """

    module: nn.Module
    updater: Updater

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.layout: Layout = layout_of(setting.spec.strategy, setting.team.world)
        self.place = self.layout.place(setting.team.rank)
        self._pipe: Pipe | None = None

    @classmethod
    def check(cls, spec: TrainSpec, module: nn.Module, workers: int) -> None:
        """See the base."""
        layout = layout_of(spec.strategy, workers)
        if workers == 1:
            return
        check_optimization(spec, layout)
        if layout.splits_model:
            check_plan(spec, module, layout)
        if layout.pipeline > 1:
            check_microbatches(spec, layout)

    @property
    def data_rank(self) -> int:
        """See the base."""
        return self.place.data

    @property
    def data_world(self) -> int:
        """See the base."""
        return self.layout.data

    @property
    def counts(self) -> bool:
        """Whether what this worker counts is added up: one of those that count the same does."""
        return self.place.tensor == 0 and self.place.pipeline == self.layout.pipeline - 1

    def combined(self, totals: torch.Tensor | None) -> torch.Tensor:
        """See the base."""
        found = [totals if self.counts else None]
        if self.setting.team.world > 1:
            found = [None] * self.setting.team.world
            dist.all_gather_object(found, totals if self.counts else None)
        counted = [one for one in found if one is not None]
        if not counted:
            raise RequestError("A worker got no rows to train on; lower `workers` or `batch_size`.")
        return torch.stack(counted).sum(dim=0)

    def prepare(self, module: nn.Module) -> None:
        """See the base."""
        team = self.setting.team
        made_ready(module, self.setting.spec, team.device)
        self._names = list(module.state_dict())
        self._plan = plan_of(module)
        self.mesh = self.layout.mesh(team.device) if team.world > 1 else None
        torch.manual_seed(self.setting.spec.seed * 65_537 + self.place.data)  # whoever shares rows drops out alike
        self.module = self._placed(module)
        self.updater = make_updater(self.setting, dict(self.module.named_parameters()), self._norm_of_all)
        if self.layout.pipeline > 1:
            self._pipe = Pipe(
                self.module, self.plan.extras, self.setting, self.layout, self.place, self._group(PIPELINE)
            )

    def step(self, parts: Sequence[Part]) -> Sequence[Step]:
        """See the base."""
        self.module.train()
        self.updater.zero()
        steps = self._pipe.train(parts) if self._pipe else self.gradients(parts)
        self._tie()
        self._average()
        self.updater.apply()
        self._share()
        return steps

    def gradients(self, parts: Sequence[Part]) -> list[Step]:
        """Compute the gradients of all parts."""
        steps: list[Step] = []
        for place, part in enumerate(parts):
            self.send_gradients(last=place == len(parts) - 1)
            steps.append(self.forward(part.batch))
            self.updater.backward(weighted(steps[-1].loss, part.weight) * self.share(part.batch, steps[-1]))
        return steps

    def forward(self, batch: Batch) -> Step:
        """Return the loss of a batch by the objective."""
        empty = self.layout.tensor > 1 and not len(batch[0])
        return forward(self.setting, _NoRows(self.module) if empty else self.module, batch)

    def share(self, batch: Batch, step: Step) -> torch.Tensor | float:
        """Return how much of a batch's loss this worker computed."""
        del batch, step
        return 1.0

    def send_gradients(self, *, last: bool) -> None:
        """Reduce sharded gradients after the last part only."""
        if isinstance(self.module, FSDPModule):
            self.module.set_requires_gradient_sync(last)

    def infer(self, batch: Batch) -> Sequence[Step]:
        """See the base."""
        self.module.eval()
        with torch.no_grad():  # not inference mode: gathered parameters are used again for training
            steps = self._pipe.infer(batch) if self._pipe else [self.forward(batch)]
        self._reshard()
        return steps

    def state(self) -> State:
        """See the base; parts of tensors are DTensors, and names are those of the whole model."""
        return {
            "model": get_model_state_dict(self.module),
            "optimizer": get_optimizer_state_dict(self.module, self.updater.optimizer, options=_FLAT),
            "averaged": dict(self.updater.averaged),
            "updates": torch.tensor(self.updater.step),
        }

    def load_state(self, state: State) -> None:
        """See the base."""
        groups = self.updater.optimizer.param_groups
        settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        set_model_state_dict(self.module, state["model"])
        set_optimizer_state_dict(self.module, self.updater.optimizer, state["optimizer"], options=_FLAT)
        for group, kept in zip(self.updater.optimizer.param_groups, settings, strict=True):
            group.update(kept)  # the settings stay those of the specification
        with torch.no_grad():
            for name, value in self.updater.averaged.items():
                value.copy_(state["averaged"][name])
        self.updater.step = int(state["updates"])
        self._share()

    def weights(self) -> dict[str, torch.Tensor]:
        """See the base."""
        place = self.place
        keeps = place.data == place.tensor == place.context == 0
        found: dict[str, torch.Tensor] = {}
        with self.updater.evaluated():
            for name, value in self.module.state_dict().items():
                whole = value.detach()
                whole = whole.full_tensor() if isinstance(whole, DTensor) else whole
                if keeps:
                    found[name] = whole.cpu().clone()
        self._share()
        if self.layout.pipeline > 1 and keeps:
            found = self._from_stages(found)
        return {name: found[name] for name in self._names} if self.setting.team.leads else {}

    # -- how the model is placed ------------------------------------------------

    def _placed(self, module: nn.Module) -> nn.Module:
        layout, device = self.layout, self.setting.team.device
        if self.mesh is None:
            return module.to(device)
        if layout.pipeline > 1:
            module = self.plan.stage(self.place.pipeline, layout.pipeline)
        if layout.tensor > 1:
            self.plan.split(module, self.mesh[TENSOR], sequence=layout.sequence)
            module.register_forward_hook(_whole_output)
        module = module.to(device)
        if layout.context > 1:
            self.plan.gather_with(self.gatherer())
        return self._sharded(module) if layout.shard else module

    @property
    def plan(self) -> Plan:
        """The plan of the module's architecture; `check` refuses modules without one."""
        if self._plan is None:
            raise RequestError(f"Architecture {self.setting.spec.architecture.name!r} has no plan for this strategy.")
        return self._plan

    def gatherer(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what gathers along each row, where workers compute parts of rows."""
        raise NotImplementedError

    def _sharded(self, module: nn.Module) -> nn.Module:
        """Shard parameters over the data direction, a group of them for each layer."""
        short = self.setting.spec.precision == "bf16"
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if short else None,
            reduce_dtype=torch.float32 if short else None,
            cast_forward_inputs=False,  # autocast decides
        )
        mesh = self._meshed[DATA]
        for layer in layers_of(module):
            fully_shard(layer, mesh=mesh, reshard_after_forward=self.layout.reshard, mp_policy=policy)
        fully_shard(module, mesh=mesh, reshard_after_forward=self.layout.reshard, mp_policy=policy)
        return module

    def _reshard(self) -> None:
        for module in self.module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def _group(self, direction: str) -> dist.ProcessGroup:
        return self._meshed.get_group(direction)

    @property
    def _meshed(self) -> DeviceMesh:
        if self.mesh is None:
            raise ValueError("a worker alone has no mesh")
        return self.mesh

    # -- gradients ---------------------------------------------------------------

    def _average(self) -> None:
        """Average gradients over the data parallel workers, and add those of parts of rows, if FSDP does not."""
        gradients = [place_gradient(parameter) for parameter in self.module.parameters() if parameter.grad is not None]
        if self.mesh is not None and not self.layout.shard and self.layout.data * self.layout.context > 1:
            group = dist.group.WORLD if self.layout.context > 1 else self._group(DATA)
            for bucket in buckets(gradients):
                add_up(bucket, group, self.layout.data)

    def _norm_of_all(self, norm: torch.Tensor) -> torch.Tensor:
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self._pipe is None:
            return whole
        square = whole.square()
        dist.all_reduce(square, group=self._group(PIPELINE))
        return square.sqrt()

    # -- a weight that two stages use --------------------------------------------

    def _tied(self) -> tuple[torch.Tensor, int] | None:
        """Return the weight that this stage shares, and the worker of the other stage; None if it shares none."""
        if self.layout.pipeline == 1:
            return None
        shared = self.plan.shared()
        last = self.layout.pipeline - 1
        if shared is None or self.place.pipeline not in (0, last):
            return None
        name, copy = shared
        first = self.place.pipeline == 0
        weight = self.module.get_parameter(name) if first else getattr(self.module, copy)[0]
        other = self.layout.rank(replace(self.place, pipeline=last if first else 0))
        return weight, other

    def _tie(self) -> None:
        """Add the last stage's gradient of a shared weight to the first's, which owns it."""
        found = self._tied()
        if found is None:
            return
        weight, other = found
        gradient = place_gradient(weight)
        if self.place.pipeline:
            dist.send(gradient.contiguous(), other)
            weight.grad = None
            return
        theirs = torch.empty_like(gradient)
        dist.recv(theirs, other)
        gradient += theirs

    def _share(self) -> None:
        """Give the last stage the first's value of a shared weight."""
        found = self._tied()
        if found is None:
            return
        weight, other = found
        with torch.no_grad():
            if self.place.pipeline:
                value = torch.empty_like(local(weight.detach()))
                dist.recv(value, other)
                local(weight.detach()).copy_(value)
            else:
                dist.send(local(weight.detach()).contiguous(), other)

    def _from_stages(self, mine: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Send what a stage has to the leader, which puts all together."""
        if not self.setting.team.leads:
            dist.send_object_list([[(n, v.shape, v.dtype) for n, v in mine.items()]], 0)
            for value in mine.values():
                dist.send(value.to(self.setting.team.device), 0)
            return {}
        for stage in range(1, self.layout.pipeline):
            source = self.layout.rank(replace(self.place, pipeline=stage))
            described: list[Any] = [None]
            dist.recv_object_list(described, source)
            for name, shape, dtype in described[0]:
                value = torch.empty(shape, dtype=dtype, device=self.setting.team.device)
                dist.recv(value, source)
                mine[name] = value.cpu()
        return mine


class _NoRows(nn.Module):
    """Stands for a module that is given no rows: it computes one, and returns none; DTensors hang without rows."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = [module]

    def forward(self, *inputs: torch.Tensor | None) -> torch.Tensor:
        """Return nothing, with gradients of 0."""
        return self._module[0](*(None if given is None else padded(given, 1) for given in inputs))[:0]


def local(value: torch.Tensor) -> torch.Tensor:
    """Return a worker's part of a tensor, which shares its memory."""
    return value.to_local() if isinstance(value, DTensor) else value


def place_gradient(parameter: torch.Tensor) -> torch.Tensor:
    """Return a worker's part of a gradient, after giving the gradient the placements of its parameter."""
    gradient = parameter.grad
    if gradient is None:
        raise ValueError("the parameter has no gradient")
    if isinstance(gradient, DTensor) and isinstance(parameter, DTensor) and gradient.placements != parameter.placements:
        gradient = gradient.redistribute(placements=parameter.placements)
        parameter.grad = gradient
    return local(gradient)


def buckets(tensors: Iterable[torch.Tensor]) -> Iterable[list[torch.Tensor]]:
    """Yield tensors of one type, so many bytes at a time."""
    waiting: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        if waiting and (waiting[0].dtype != tensor.dtype or size + tensor.nbytes > BUCKET_BYTES):
            yield waiting
            waiting, size = [], 0
        waiting.append(tensor)
        size += tensor.nbytes
    if waiting:
        yield waiting


def add_up(tensors: list[torch.Tensor], group: dist.ProcessGroup | None, divisor: int) -> None:
    """Replace tensors with their sums over a group, divided."""
    flat = _flatten_dense_tensors(tensors)
    dist.all_reduce(flat, group=group)
    flat /= divisor
    for tensor, found in zip(tensors, _unflatten_dense_tensors(flat, tensors), strict=True):
        tensor.copy_(found)


def _whole_output(_: nn.Module, __: Any, output: Any) -> Any:
    return output.full_tensor() if isinstance(output, DTensor) else output


# -- what is refused -----------------------------------------------------------


def check_optimization(spec: TrainSpec, layout: Layout) -> None:
    """Refuse ways to optimize that do not work on parts of a model."""
    name = spec.strategy.name
    if spec.precision == "fp16":
        raise RequestError(f"precision is 'fp16', whose loss scaling strategy {name!r} does not do; use 'bf16'.")
    if spec.compile:
        raise RequestError(f"compile is true, which strategy {name!r} does not do; leave it out, or use 'ddp'.")
    if spec.optimizer.name in WHOLE_MATRIX and (layout.shard or layout.tensor > 1):
        raise RequestError(
            f"optimizer {spec.optimizer.name!r} needs whole matrices, and workers of strategy {name!r} have parts; use "
            "'adamw', or strategy 'ddp'."
        )


def check_plan(spec: TrainSpec, module: nn.Module, layout: Layout) -> None:
    """Refuse models that cannot be split so."""
    name, architecture = spec.strategy.name, spec.architecture.name
    if spec.worker_range.elastic:
        raise RequestError(
            f"workers is {spec.workers}, but strategy {name!r} splits the model over a fixed number; write one number, "
            "or use 'fsdp' or 'ddp'."
        )
    plan = plan_of(module)
    if plan is None:
        raise RequestError(
            f"strategy is {name!r}, and architecture {architecture!r} has no plan for it; use 'ddp' or 'fsdp'."
        )
    if layout.tensor > 1:
        plan.check_tensor(layout.tensor, sequence=layout.sequence)
    if layout.pipeline > plan.layers:
        raise RequestError(
            f"strategy {name!r} has {layout.pipeline} stages, but architecture {architecture!r} has {plan.layers} "
            f"layers; use at most {plan.layers} stages."
        )
    if layout.pipeline > 1 and layout.shard and plan.shared() is not None:
        raise RequestError(
            "strategy.shard is true with stages, and first and last stage share the embedding; set "
            "architecture.arguments.tied: false, or strategy.shard: false."
        )


def check_microbatches(spec: TrainSpec, layout: Layout) -> None:
    """Refuse numbers of microbatches that do not divide the batch or leave stages idle."""
    share = spec.batch_size // (layout.data * spec.accumulate)
    if share % layout.microbatches or share == 0:
        raise RequestError(
            f"strategy.microbatches is {layout.microbatches}, which does not divide the {share} rows that a pipeline "
            f"takes at a time (batch_size {spec.batch_size} / {layout.data} pipelines / accumulate {spec.accumulate}); "
            "use a divisor, or another batch_size."
        )
    if layout.schedule == "1f1b" and layout.microbatches * spec.accumulate < layout.pipeline:
        raise RequestError(
            f"strategy.microbatches is {layout.microbatches}, and schedule '1f1b' needs at least one for each of the "
            f"{layout.pipeline} stages; raise it, or use schedule 'gpipe'."
        )
