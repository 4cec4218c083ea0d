"""How many ways a run is split: a mesh of data x pipeline x context x tensor parallel workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lightmill.errors import RequestError
from lightmill.records.training import (
    ContextSpec,
    DdpSpec,
    FsdpSpec,
    HybridSpec,
    PipelineSpec,
    StrategySpec,
    TensorSpec,
)

ScheduleName = Literal["gpipe", "1f1b"]
DATA, PIPELINE, CONTEXT, TENSOR = "data", "pipeline", "context", "tensor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a worker is in the mesh, counted from 0 in each direction."""

    data: int
    pipeline: int
    context: int
    tensor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The sizes of a mesh; neighbours in `tensor` have neighbouring ranks, so that they share a node if they can.

    Attributes:
        data: Shares of each step's rows.
        pipeline: Stages of consecutive layers.
        context: Parts of each row's tokens.
        tensor: Parts of each layer's matrices.
        shard: Whether parameters are sharded over `data` (FSDP), and freed after the forward pass with `reshard`.
        sequence: Whether what lies between the matrices is split over `tensor` as well.
        microbatches: Pieces in which a part of a step goes through the stages.
        schedule: In which order.
    """

    data: int
    pipeline: int = 1
    context: int = 1
    tensor: int = 1
    shard: bool = False
    reshard: bool = True
    sequence: bool = False
    microbatches: int = 1
    schedule: ScheduleName = "1f1b"

    @property
    def splits_model(self) -> bool:
        """Whether workers share rows: then not every number of workers fits."""
        return self.pipeline * self.context * self.tensor > 1

    def place(self, rank: int) -> Place:
        """Return where a worker is."""
        rest, tensor = divmod(rank, self.tensor)
        rest, context = divmod(rest, self.context)
        data, pipeline = divmod(rest, self.pipeline)
        return Place(data=data, pipeline=pipeline, context=context, tensor=tensor)

    def rank(self, place: Place) -> int:
        """Return which worker is at a place."""
        return ((place.data * self.pipeline + place.pipeline) * self.context + place.context) * self.tensor + (
            place.tensor
        )

    def mesh(self, device: torch.device) -> DeviceMesh:
        """Return the mesh of the directions that are split, and always of `data`; all workers call it."""
        sizes = {DATA: self.data, PIPELINE: self.pipeline, CONTEXT: self.context, TENSOR: self.tensor}
        kept = {name: size for name, size in sizes.items() if size > 1 or name == DATA}
        return init_device_mesh(device.type, tuple(kept.values()), mesh_dim_names=tuple(kept))


def layout_of(spec: StrategySpec, workers: int) -> Layout:
    """Return the mesh that a strategy makes of so many workers.

    Raises:
        RequestError: Its sizes do not multiply to the workers.
    """
    match spec:
        case DdpSpec():
            return Layout(data=workers)
        case FsdpSpec():
            return Layout(data=workers, shard=True, reshard=spec.reshard)
        case TensorSpec():
            size = spec.size or workers
            return Layout(data=_rest("size", size, workers), tensor=size, sequence=spec.sequence)
        case ContextSpec():
            size = spec.size or workers
            return Layout(data=_rest("size", size, workers), context=size)
        case PipelineSpec():
            stages = spec.stages or workers
            return Layout(
                data=_rest("stages", stages, workers),
                pipeline=stages,
                microbatches=spec.microbatches,
                schedule=spec.schedule,
            )
        case HybridSpec():
            return _hybrid(spec, workers)
        case _:
            raise RequestError(f"Strategy {spec.name!r} makes no mesh of workers.")


def _rest(field: str, size: int, workers: int) -> int:
    if workers % size:
        raise RequestError(
            f"strategy.{field} is {size}, which does not divide {workers} workers; use a divisor of {workers}, or a "
            f"multiple of {size} `workers`."
        )
    return workers // size


def _hybrid(spec: HybridSpec, workers: int) -> Layout:
    inner = spec.tensor * spec.pipeline
    if spec.data and spec.data * inner != workers:
        raise RequestError(
            f"strategy.data {spec.data} x pipeline {spec.pipeline} x tensor {spec.tensor} is {spec.data * inner}, but "
            f"there are {workers} `workers`; make them equal, or leave strategy.data out."
        )
    return Layout(
        data=spec.data or _rest("pipeline x tensor", inner, workers),
        pipeline=spec.pipeline,
        tensor=spec.tensor,
        shard=spec.shard,
        microbatches=spec.microbatches,
        schedule=spec.schedule,
    )
