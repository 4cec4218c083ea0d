"""How a strategy divides a model and a step among workers, and which layers a model consists of."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lightmill.errors import RequestError
from lightmill.records.training import (
    AnyStrategy,
    ContextSpec,
    FsdpSpec,
    HybridSpec,
    HybridSyncSpec,
    PipelineSpec,
    TensorSpec,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`data` x `tensor` x `stages` x `context` workers; `data` is into how many shares each step's rows go.

    With `shard`, parameters, gradients and optimizer are sharded over `data` (FSDP).
    """

    data: int
    tensor: int = 1
    stages: int = 1
    context: int = 1
    microbatches: int = 1
    schedule: str = "1f1b"
    shard: bool = False

    @property
    def workers(self) -> int:
        """All workers."""
        return self.data * self.tensor * self.stages * self.context

    def in_flight(self, stage: int) -> int:
        """Return the most microbatches whose activations a stage holds at once.

        1F1B: D. Narayanan et al., "Memory-efficient pipeline-parallel DNN training" (2021).
        """
        if self.stages == 1:
            return 1
        return self.microbatches if self.schedule == "gpipe" else min(self.microbatches, self.stages - stage)


def layout_of(strategy: AnyStrategy, workers: int) -> Layout:
    """Return how a strategy lays out workers.

    Raises:
        RequestError: Its sizes do not multiply to the workers.
    """
    match strategy:
        case TensorSpec(size=size):
            size = _divisor("tensor", "size", size, workers)
            return Layout(data=workers // size, tensor=size)
        case PipelineSpec(stages=stages, microbatches=parts, schedule=schedule):
            stages = _divisor("pipeline", "stages", stages, workers)
            return Layout(data=workers // stages, stages=stages, microbatches=parts, schedule=schedule)
        case ContextSpec(size=size):
            size = _divisor("context", "size", size, workers)
            return Layout(data=workers // size, context=size)
        case FsdpSpec():
            return Layout(data=workers, shard=True)
        case HybridSpec(data=data, tensor=tensor, pipeline=stages, microbatches=parts, schedule=schedule, shard=shard):
            data = data or workers // (tensor * stages)
            if data * tensor * stages != workers:
                raise RequestError(
                    f"strategy hybrid: data {data} x tensor {tensor} x pipeline {stages} are {data * tensor * stages} "
                    f"workers, not {workers}; change `workers` or one of the three."
                )
            return Layout(data=data, tensor=tensor, stages=stages, microbatches=parts, schedule=schedule, shard=shard)
        case HybridSyncSpec(group_size=size):
            _divisor("hybrid_sync", "group_size", size, workers)
    return Layout(data=workers)


def _divisor(strategy: str, field: str, size: int, workers: int) -> int:
    size = size or workers
    if workers % size:
        raise RequestError(
            f"strategy {strategy}: {field} {size} does not divide {workers} workers; set {field} to a divisor, or "
            "change `workers`."
        )
    return size


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The consecutive layers of a model, by the names of their modules, and the bytes of parameters.

    Attributes:
        names: Layers in their order; empty where the model has none that follow one another.
        split: Modules whose matrices tensor parallelism splits.
        whole_outputs: Of these, those that return whole values, summed over the workers.
        parameter_bytes: The parameters of each layer, and under "" those of no layer.
        first: Modules outside of layers that compute before them; others compute after them.
        shared_bytes: The matrices of `first` that the end of the model uses too, such as an embedding that reads
            logits; a pipeline's last stage has a copy.
    """

    names: tuple[str, ...]
    split: frozenset[str]
    whole_outputs: frozenset[str]
    parameter_bytes: dict[str, int]
    first: frozenset[str]
    shared_bytes: int = 0

    def layer(self, place: str) -> str | None:
        """Return the layer that a module or a parameter is of."""
        return next((name for name in self.names if place == name or place.startswith(f"{name}.")), None)

    def stage(self, place: str, stages: int) -> int:
        """Return the stage of a pipeline that a module or a parameter is on."""
        layer = self.layer(place)
        if layer is None:
            return 0 if place.partition(".")[0] in self.first else stages - 1
        each, more = divmod(len(self.names), stages)  # earlier stages have one more
        place_in = self.names.index(layer)
        return place_in // (each + 1) if place_in < more * (each + 1) else more + (place_in - more * (each + 1)) // each

    def is_split(self, place: str) -> bool:
        """Return whether tensor parallelism splits a parameter, or what is made while a module computes."""
        module = place.rpartition(".")[0] if place.endswith((".weight", ".bias")) else place
        if module in self.split:
            return place != module or module not in self.whole_outputs
        return any(name.startswith(f"{module}.") for name in self.split) and module not in ("", *self.names)


def layers_of(module: nn.Module) -> Layers:
    """Return a model's layers: the list of modules with the most parameters, else the parts of a sequence.

    In each layer the parts that contain linear maps are taken to be split as M. Shoeybi et al., "Megatron-LM" (2019),
    split attention and feed-forward networks: all maps but the last by their outputs, the last by its inputs.
    """
    lists = {name: part for name, part in module.named_modules() if isinstance(part, nn.ModuleList) and len(part)}
    if lists:
        root = max(lists, key=lambda name: _bytes(lists[name]))
        names = tuple(f"{root}.{number}" for number in range(len(lists[root])))
    else:
        children = dict(module.named_children()) if isinstance(module, nn.Sequential) else {}
        names = tuple(name for name, part in children.items() if _bytes(part))
        root = ""
    top = [name for name, _ in module.named_children()]
    first = top[: top.index(root.partition(".")[0])] if root else []
    sizes = {name: _bytes(module.get_submodule(name)) for name in names}
    split, whole = _split_parts(module, names) if lists else _split_sequence(module, names)
    ends = [name for name in top if root and name not in (*first, root.partition(".")[0])]
    return Layers(
        names=names,
        split=split,
        whole_outputs=whole,
        parameter_bytes={**sizes, "": _bytes(module) - sum(sizes.values())},
        first=frozenset(first),
        shared_bytes=0 if any(_matrices(module, name) for name in ends) else sum(_matrices(module, n) for n in first),
    )


def _split_parts(module: nn.Module, names: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """Return what is split of layers, and beside them embedding and logits by the vocabulary."""
    split, whole = set(), set()
    for layer in names:
        for child, part in module.get_submodule(layer).named_children():
            maps = [name for name, inner in part.named_modules() if name and isinstance(inner, nn.Linear)]
            split |= {f"{layer}.{child}.{name}" for name in maps}
            whole |= {f"{layer}.{child}.{name}" for name in maps[-1:]}
    beside = {name for name, part in module.named_children() if isinstance(part, nn.Embedding | nn.Linear)}
    return frozenset(split | beside), frozenset(whole | beside)


def _split_sequence(module: nn.Module, names: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the linear maps of a sequence: split by columns and by rows in turns, after which values are whole."""
    maps = [name for name in names if isinstance(module.get_submodule(name), nn.Linear)]
    return frozenset(maps), frozenset(maps[1::2] + maps[-1:])


def _matrices(module: nn.Module, name: str) -> int:
    return sum(parameter.nbytes for parameter in module.get_submodule(name).parameters() if parameter.ndim == 2)


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
