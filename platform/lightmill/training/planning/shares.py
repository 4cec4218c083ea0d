"""What one worker holds of a step that was followed with the whole model, for each strategy.

Followed are one process's tensors. What a strategy does to each is stated here: a share of it, or bytes beside it.
Where tensor, pipeline and context parallelism compute on parts, shares of activations are estimates.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightmill.records.training import (
    DdpSpec,
    FsdpSpec,
    HybridSyncSpec,
    LocalSgdSpec,
    ParameterServerSpec,
    RingSpec,
)
from lightmill.training.planning.layouts import AnyStrategy, Layers, Layout
from lightmill.training.planning.tracing import BACKWARD, Block, Trace, Weight

STAYING = frozenset({"parameter", "gradient", "optimizer", "averaged"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of the worker that needs most. `other_bytes` are what messages and copies take, and what is counted later.

    `total_bytes` is the most that is there at once, and `activation_bytes` what that is beyond the rest.
    """

    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    other_bytes: int
    total_bytes: int
    server_bytes: int = 0


def worker_memory(trace: Trace, layers: Layers, strategy: AnyStrategy, layout: Layout, kept_steps: int) -> Memory:
    """Return what the worker that needs most holds.

    Args:
        trace: A step of this worker's rows, followed with the whole model.
        layers: The model's.
        strategy: Which one.
        layout: Its layout.
        kept_steps: So many steps' outputs are kept until they are counted.
    """
    found = [_of_stage(trace, layers, strategy, layout, stage) for stage in range(layout.stages)]
    most = max(found, key=lambda memory: memory.total_bytes)
    kept = trace.kept_bytes * kept_steps
    return Memory(
        parameter_bytes=most.parameter_bytes,
        gradient_bytes=most.gradient_bytes,
        optimizer_bytes=most.optimizer_bytes,
        activation_bytes=most.activation_bytes,
        other_bytes=most.other_bytes + kept,
        total_bytes=most.total_bytes + kept,
        server_bytes=server_bytes(trace, strategy),
    )


def _of_stage(trace: Trace, layers: Layers, strategy: AnyStrategy, layout: Layout, stage: int) -> Memory:
    weight = stage_weight(trace, layers, strategy, layout, stage)
    beside = beside_bytes(trace, layers, strategy, layout)
    gradients = trace.total("gradient", weight)
    if isinstance(strategy, DdpSpec) and layout.data > 1:  # they lie in buckets, which are there all the time
        peak = gradients + trace.peak(lambda block: 0.0 if block.kind == "gradient" else weight(block))
    else:
        peak = trace.peak(weight)
    parameters = trace.total("parameter", weight) + trace.total("buffer", weight)
    optimizer = trace.total("optimizer", weight) + trace.total("averaged", weight)
    return Memory(
        parameter_bytes=parameters,
        gradient_bytes=gradients,
        optimizer_bytes=optimizer,
        activation_bytes=max(0, peak - parameters - gradients - optimizer),
        other_bytes=beside,
        total_bytes=peak + beside,
    )


def stage_weight(trace: Trace, layers: Layers, strategy: AnyStrategy, layout: Layout, stage: int) -> Weight:
    """Return which share of each tensor a worker of a stage has."""
    staying = _staying_weight(layers, strategy, layout, stage)

    def forward(block: Block) -> float:
        if layers.stage(block.place, layout.stages) != stage:
            return 0.0
        share = 1 / layout.tensor if layers.is_split(block.place) else 1.0
        return share * layout.in_flight(stage) / layout.microbatches / layout.context

    if layout.tensor == layout.stages == layout.context == 1:
        return lambda block: staying(block) if block.kind in STAYING else 1.0
    made = [block for block in trace.blocks if block.kind == "activation" and block.place != BACKWARD]
    size = sum(block.size_bytes for block in made)
    backward = sum(block.size_bytes * forward(block) for block in made) / max(1, size) / layout.in_flight(stage)

    def weight(block: Block) -> float:
        if block.kind in STAYING:
            return staying(block)
        if block.kind != "activation":
            return 1.0
        return backward if block.place == BACKWARD else forward(block)

    return weight


def _staying_weight(layers: Layers, strategy: AnyStrategy, layout: Layout, stage: int) -> Weight:
    def weight(block: Block) -> float:
        if isinstance(strategy, ParameterServerSpec | HybridSyncSpec) and block.kind in ("optimizer", "averaged"):
            return 0.0
        if layers.stage(block.place, layout.stages) != stage:
            return 0.0
        share = 1 / layout.tensor if layers.is_split(block.place) else 1.0
        kept = block.kind == "parameter" and isinstance(strategy, FsdpSpec) and not strategy.reshard
        return share if kept or not layout.shard else share / layout.data

    return weight


def beside_bytes(trace: Trace, layers: Layers, strategy: AnyStrategy, layout: Layout) -> int:
    """Return the bytes of messages and copies beside the tensors of a step."""
    parameters, gradients = trace.total("parameter"), trace.total("gradient")
    if layout.workers == 1 and not isinstance(strategy, ParameterServerSpec):
        return 0
    if layout.shard:
        return _gathered(layers, layout, freed=not isinstance(strategy, FsdpSpec) or strategy.reshard)
    match strategy:
        case DdpSpec():
            return 0  # buckets are sent as they are
        case ParameterServerSpec():
            return parameters + gradients  # one message each way
        case LocalSgdSpec(outer=outer):
            return parameters * (3 if outer.momentum else 2)  # the last common weights, their momentum, the message
        case RingSpec():
            return 2 * parameters  # one goes, one comes
        case HybridSyncSpec():
            return parameters + 2 * gradients
    sent = gradients // (layout.tensor * layout.stages) if layout.data * layout.context > 1 else 0  # in buckets
    return sent + (2 * layers.shared_bytes if layout.stages > 1 else 0)  # the copy and its gradient


def _gathered(layers: Layers, layout: Layout, *, freed: bool) -> int:
    """Return the whole parameters of a layer that computes and of the next one, and gradients before they are cut."""
    largest = max((size for name, size in layers.parameter_bytes.items() if name), default=0)
    rest = layers.parameter_bytes[""]
    return ((rest + 2 * largest if freed else 0) + max(largest, rest)) // (layout.tensor * layout.stages)


def server_bytes(trace: Trace, strategy: AnyStrategy) -> int:
    """Return what one server holds: its part of parameters, their optimizer, and one gradient of all."""
    match strategy:
        case ParameterServerSpec(servers=servers) | HybridSyncSpec(servers=servers):
            kinds = ("parameter", "optimizer", "averaged", "gradient")
            return sum(trace.total(kind) for kind in kinds) // servers
    return 0
