"""Bytes that workers send in a step, for each strategy.

All-reduce, all-gather and reduce-scatter are counted as rings do them, which send the least: P. Patarasuk and X. Yuan,
"Bandwidth optimal all-reduce algorithms for clusters of workstations" (2009). Backends may send more.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightmill.records.training import (
    FsdpSpec,
    HybridSyncSpec,
    LocalSgdSpec,
    ParameterServerSpec,
    RingSpec,
)
from lightmill.training.planning.layouts import AnyStrategy, Layers, Layout
from lightmill.training.planning.tracing import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes a step: what a worker sends, all workers and servers together, and what the busiest process sends."""

    worker_bytes: int
    all_bytes: int
    busiest_bytes: int


def reduced(size: float, workers: int) -> float:
    """Return what each worker sends in an all-reduce of so many bytes."""
    return 2 * gathered(size, workers)


def gathered(size: float, workers: int) -> float:
    """Return what each worker sends in an all-gather that ends with so many bytes, or in a reduce-scatter of them."""
    return size * (workers - 1) / workers


def step_traffic(trace: Trace, layers: Layers, strategy: AnyStrategy, layout: Layout, accumulate: int) -> Traffic:
    """Return the bytes of a step.

    Args:
        trace: A step of this worker's rows, followed with the whole model.
        layers: The model's.
        strategy: Which one.
        layout: Its layout.
        accumulate: The parts of a worker's step.
    """
    parameters, gradients, n = trace.total("parameter"), trace.total("gradient"), layout.workers
    match strategy:
        case ParameterServerSpec(servers=servers):
            return _served(gradients, parameters, clients=n, servers=servers, workers=n, inside=0.0)
        case LocalSgdSpec(local_steps=steps):
            return _even(reduced(parameters, n) / steps, n)
        case RingSpec(every_steps=steps):
            return _even(parameters / steps if n > 1 else 0.0, n)
        case HybridSyncSpec(group_size=size, servers=servers):
            inside = reduced(gradients, size)
            return _served(gradients, parameters, clients=n // size, servers=servers, workers=n, inside=inside)
    split, sharing = layout.tensor * layout.stages, layout.data * layout.context
    sent = reduced(gradients / split, sharing)
    if layout.shard:
        passes = accumulate * (1 if isinstance(strategy, FsdpSpec) and not strategy.reshard else 2)
        sent = (passes * gathered(parameters, sharing) + gathered(gradients, sharing)) / split
    return _even(sent + accumulate * _of_parts(trace, layers, layout), n)


def _of_parts(trace: Trace, layers: Layers, layout: Layout) -> float:
    """Return what a worker sends of the activations of one part of a step."""
    sent = 0.0
    if layout.tensor > 1:
        whole = sum(trace.returned.get(name, 0) for name in layers.whole_outputs)
        sent += 2 * reduced(whole, layout.tensor) / layout.stages  # forward, and as much backward
    if layout.stages > 1:
        sent += 2 * max((trace.returned.get(name, 0) for name in layers.names), default=0)  # on, and the gradient back
    if layout.context > 1:
        # Keys and values go around once forward; backward they do again, with their gradients.
        seen = sum(trace.returned.get(name, 0) for name in layers.names)
        sent += 6 * gathered(seen, layout.context)
    return sent


def _even(sent: float, workers: int) -> Traffic:
    return Traffic(worker_bytes=round(sent), all_bytes=round(sent * workers), busiest_bytes=round(sent))


def _served(gradients: int, parameters: int, *, clients: int, servers: int, workers: int, inside: float) -> Traffic:
    """Return the traffic of clients that push gradients to servers and pull parameters."""
    pushed, pulled = gradients * clients, parameters * clients
    return Traffic(
        worker_bytes=round(inside + pushed / workers),
        all_bytes=round(inside * workers + pushed + pulled),
        busiest_bytes=round(inside + max(pushed, pulled) / servers if clients > 1 else inside + gradients),
    )
