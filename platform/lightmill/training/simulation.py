"""A simulated cluster: how fast each strategy would train on more workers than are at hand.

Given are the time of one worker's computation of its rows of a step, the bytes that travel, and the speed of the links;
what comes out is steps a second, by stepping the workers through a few hundred steps. Every worker has as many rows of
a step whatever their number (weak scaling), so that perfect scaling is a speed-up of n.

The model, for n workers, M bytes of parameters, a link of B bytes/s in each direction and a latency of a seconds:

| strategy | a step takes |
|---|---|
| `ddp` | the slowest computation, then what of a ring all-reduce backward does not hide: 2(n-1)(a + M/nB) |
| `fsdp` | the same with three ring passes (gathered twice, scattered once) of every layer: 3(n-1)(La + M/nB) |
| `tensor` | the slowest computation, and four all-reduces of all rows' activations in each layer, which nothing hides |
| `pipeline` | (m + s - 1) slots of 1/m of the slowest computation and two messages: m microbatches, s stages |
| `context` | as `ddp`; and keys and values of every layer pass round three times, hidden behind computing |
| `hybrid` | tensor parallel in groups of `group_size`, `ddp` of their shares between them |
| `parameter_server` | incast, all push and are given M bytes through the servers' links: 2(a + M/B max(1, n/servers)) |
| `local_sgd` | `local_steps` computations of each worker's own, then an all-reduce that nothing hides |
| `ring` | each `every_steps` steps a worker waits for its neighbour, and for one message |
| `hybrid_sync` | an all-reduce in groups of `group_size`; one worker of each meets the servers |

`asp` waits for nobody: its rate is the sum of the workers' own, up to what the servers' links carry. `ssp` lets a
worker begin a step when the slowest is at most `staleness` steps behind. Model parallel groups are as large as `layers`
for `pipeline` and all workers for `tensor` and `context`. Left out: the servers' own computing, contention inside the
network, memory. Sources: P. Patarasuk and X. Yuan, "Bandwidth optimal all-reduce algorithms" (2009); Q. Ho et al.
(2013); Y. Huang et al., "GPipe" (2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightmill.errors import RequestError
from lightmill.records.training import (
    HybridSpec,
    HybridSyncSpec,
    LocalSgdSpec,
    ParameterServerSpec,
    PipelineSpec,
    RingSpec,
    StrategySpec,
)

Seconds = npt.NDArray[np.float64]
SIMULATED_STEPS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What a worker sends and receives through: bytes a second in each direction, and seconds until the first byte."""

    bytes_per_s: float
    latency_s: float

    def message(self, size_bytes: float) -> float:
        """Return the seconds that one message takes."""
        return self.latency_s + size_bytes / self.bytes_per_s

    def pass_round(self, size_bytes: float, workers: int) -> float:
        """Return the seconds of one pass round a ring, each worker sending its n-th of so many bytes n - 1 times."""
        return (workers - 1) * self.message(size_bytes / workers)

    def all_reduce(self, size_bytes: float, workers: int) -> float:
        """Return the seconds of a ring all-reduce."""
        return 2 * self.pass_round(size_bytes, workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one worker does in a step.

    Attributes:
        compute_s: Seconds of computing its rows, forward to update.
        parameter_bytes: Bytes of parameters, and of their gradients.
        layers: Layers, as far as they are computed one after another.
        activation_bytes: Bytes that go from layer to layer for its rows.
        overlap: The share of computing that communication can hide behind.
    """

    compute_s: float
    parameter_bytes: float
    layers: int = 1
    activation_bytes: float = 0.0
    overlap: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Stragglers:
    """How unlike computations are.

    Attributes:
        variation: The standard deviation of a computation's time over its mean (log-normal, each step and worker anew).
        slow_workers: So many workers are always slower.
        slow_factor: By this factor.
        seed: Decides the times.
    """

    variation: float = 0.0
    slow_workers: int = 0
    slow_factor: float = 1.0
    seed: int = 0

    def times(self, compute_s: float, steps: int, workers: int) -> Seconds:
        """Return the seconds of each computation, [steps, workers]; a worker's do not depend on how many there are."""
        sigma = float(np.sqrt(np.log1p(self.variation**2)))
        found = np.empty((steps, workers))
        for worker in range(workers):
            drawn = np.random.default_rng([self.seed, worker]).standard_normal(steps)
            slow = self.slow_factor if worker < self.slow_workers else 1.0
            found[:, worker] = compute_s * slow * np.exp(sigma * drawn - sigma**2 / 2)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Workers that are alike but for stragglers."""

    workers: int
    link: Link
    stragglers: Stragglers = Stragglers()


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What a number of workers comes to: steps of all workers in a second, and rows over those of one worker."""

    workers: int
    steps_per_s: float
    speed_up: float


def predict(strategy: StrategySpec, work: Workload, cluster: Cluster) -> float:
    """Return how many steps all workers do in a second; for `asp` the pushes in a second over the workers.

    Raises:
        RequestError: There is no worker.
    """
    if cluster.workers < 1:
        raise RequestError(f"A cluster of {cluster.workers} workers cannot be simulated; use at least 1.")
    times = cluster.stragglers.times(work.compute_s, SIMULATED_STEPS, cluster.workers)
    return _MODELS[strategy.name](strategy, work, cluster, times)


def speed_curve(
    strategy: StrategySpec, work: Workload, link: Link, workers: Iterable[int], stragglers: Stragglers | None = None
) -> list[Speed]:
    """Return the speeds of some numbers of workers.

    `speed_up` is against one worker that computes undisturbed and sends nothing.
    """
    found = []
    for number in workers:
        steps_per_s = predict(strategy, work, Cluster(workers=number, link=link, stragglers=stragglers or Stragglers()))
        speed_up = steps_per_s * number * work.compute_s
        found.append(Speed(workers=number, steps_per_s=steps_per_s, speed_up=speed_up))
    return found


def _together(times: Seconds, more: float) -> float:
    """Return steps a second where each step waits for the slowest, and for some seconds more."""
    return len(times) / float((times.max(axis=1) + more).sum())


def _exposed(work: Workload, sending_s: float) -> float:
    return max(0.0, sending_s - work.overlap * work.compute_s)


def _ddp(_: StrategySpec, work: Workload, cluster: Cluster, times: Seconds) -> float:
    return _together(times, _exposed(work, cluster.link.all_reduce(work.parameter_bytes, cluster.workers)))


def _fsdp(_: StrategySpec, work: Workload, cluster: Cluster, times: Seconds) -> float:
    layer = cluster.link.pass_round(work.parameter_bytes / work.layers, cluster.workers)
    return _together(times, _exposed(work, 3 * work.layers * layer))


def _in_layers(work: Workload, link: Link, workers: int) -> float:
    """Return the seconds of tensor parallel all-reduces of a step, over so many workers and the rows of all of them."""
    return 4 * work.layers * link.all_reduce(work.activation_bytes * workers, workers)


def _tensor(_: StrategySpec, work: Workload, cluster: Cluster, times: Seconds) -> float:
    return _together(times, _in_layers(work, cluster.link, cluster.workers))


def _pipeline(strategy: StrategySpec, work: Workload, cluster: Cluster, times: Seconds) -> float:
    chosen = strategy if isinstance(strategy, PipelineSpec) else PipelineSpec()
    stages = min(chosen.stages or work.layers, work.layers, cluster.workers)
    slots = chosen.microbatches + stages - 1
    message = cluster.link.message(work.activation_bytes * stages / chosen.microbatches) if stages > 1 else 0.0
    replicas = cluster.workers // stages
    share = cluster.link.all_reduce(work.parameter_bytes / stages, replicas)
    return _together(times * slots / chosen.microbatches, slots * 2 * message + _exposed(work, share))


def _context(_: StrategySpec, work: Workload, cluster: Cluster, times: Seconds) -> float:
    size = 2 * work.activation_bytes * cluster.workers
    rounds = 3 * work.layers * cluster.link.pass_round(size, cluster.workers)
    return _together(times, _exposed(work, rounds + cluster.link.all_reduce(work.parameter_bytes, cluster.workers)))


def _hybrid(strategy: StrategySpec, work: Workload, cluster: Cluster, times: Seconds) -> float:
    size = strategy.tensor if isinstance(strategy, HybridSpec) else 1
    inside = min(size, cluster.workers)
    share = cluster.link.all_reduce(work.parameter_bytes / inside, cluster.workers // inside)
    return _together(times, _in_layers(work, cluster.link, inside) + _exposed(work, share))


def _parameter_server(strategy: StrategySpec, work: Workload, cluster: Cluster, times: Seconds) -> float:
    chosen = strategy if isinstance(strategy, ParameterServerSpec | HybridSyncSpec) else ParameterServerSpec()
    pushers = times.shape[1]
    crowd = max(1.0, pushers / chosen.servers)
    at_once = 2 * (cluster.link.latency_s + crowd * work.parameter_bytes / cluster.link.bytes_per_s)
    alone = 2 * cluster.link.message(work.parameter_bytes)
    if chosen.consistency == "bsp":
        return _together(times, at_once)
    carried = chosen.servers * cluster.link.bytes_per_s / work.parameter_bytes / pushers  # pushes each, in a second
    if chosen.consistency == "asp":
        return min(carried, float((1 / (times.mean(axis=0) + alone)).mean()))
    return min(carried, _within(times + alone, chosen.staleness))


def _within(times: Seconds, staleness: int) -> float:
    """Return steps a second where a worker begins a step when all have done all but `staleness` of those before."""
    ended = np.zeros(times.shape)
    for step in range(len(times)):
        begin = ended[step - 1] if step else np.zeros(times.shape[1])
        if step > staleness:
            begin = np.maximum(begin, ended[step - staleness - 1].max())
        ended[step] = begin + times[step]
    return len(times) / float(ended[-1].max())


def _local_sgd(strategy: StrategySpec, work: Workload, cluster: Cluster, times: Seconds) -> float:
    steps = strategy.local_steps if isinstance(strategy, LocalSgdSpec) else 1
    rounds = [times[first : first + steps].sum(axis=0).max() for first in range(0, len(times), steps)]
    sending = cluster.link.all_reduce(work.parameter_bytes, cluster.workers)
    return len(times) / float(sum(rounds) + sending * len(times) / steps)


def _ring(strategy: StrategySpec, work: Workload, cluster: Cluster, times: Seconds) -> float:
    every = strategy.every_steps if isinstance(strategy, RingSpec) else 1
    message = cluster.link.message(work.parameter_bytes) if cluster.workers > 1 else 0.0
    clock = np.zeros(cluster.workers)
    for step in range(len(times)):
        clock = clock + times[step]
        if (step + 1) % every == 0:
            clock = np.maximum(clock, np.roll(clock, 1)) + message
    return len(times) / float(clock.max())


def _hybrid_sync(strategy: StrategySpec, work: Workload, cluster: Cluster, times: Seconds) -> float:
    size = min(strategy.group_size, cluster.workers) if isinstance(strategy, HybridSyncSpec) else 1
    groups = cluster.workers // size
    inside = cluster.link.all_reduce(work.parameter_bytes, size)
    slowest = times[:, : groups * size].reshape(len(times), groups, size).max(axis=2)
    return _parameter_server(strategy, work, cluster, slowest + inside)


_Model = Callable[[StrategySpec, Workload, Cluster, Seconds], float]
_MODELS: dict[str, _Model] = {
    "ddp": _ddp,
    "fsdp": _fsdp,
    "tensor": _tensor,
    "pipeline": _pipeline,
    "context": _context,
    "hybrid": _hybrid,
    "parameter_server": _parameter_server,
    "local_sgd": _local_sgd,
    "ring": _ring,
    "hybrid_sync": _hybrid_sync,
}


def fitted_link(sizes_bytes: Sequence[float], seconds: Sequence[float], workers: int) -> Link:
    """Return the link that explains measured ring all-reduces best, by least squares of relative errors.

    Args:
        sizes_bytes: Of each all-reduce; at least two that differ.
        seconds: How long each took.
        workers: Between how many.
    """
    took = np.asarray(seconds, dtype=np.float64)
    each = 2 * (workers - 1)
    parts = np.stack([np.full(len(took), each), each * np.asarray(sizes_bytes, dtype=np.float64) / workers], axis=1)
    latency, per_byte = np.linalg.lstsq(parts / took[:, None], np.ones(len(took)), rcond=None)[0]
    return Link(bytes_per_s=1 / max(float(per_byte), 1e-15), latency_s=max(float(latency), 0.0))
