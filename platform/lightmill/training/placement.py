"""Where the workers go. A pure decision: the specification and the cluster in, a placement or a refusal out.

Ray retries for ever what can never be placed, and hangs silently when workers take every CPU that a lazy
dataset needs; both are refused here, before anything starts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lightmill.errors import RequestError
from lightmill.records.specs import TrainSpec

DATA_CPUS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What Ray reports: logical CPUs and GPUs per live node, and whether the GPUs are devices.

    A GPU that `ray start --num-gpus` declared without a device has no accelerator type.
    """

    node_cpus: tuple[float, ...]
    node_gpus: tuple[float, ...] = ()
    accelerators: frozenset[str] = field(default_factory=frozenset)

    @property
    def cpus(self) -> float:
        """All logical CPUs."""
        return sum(self.node_cpus)

    @property
    def gpus(self) -> float:
        """All logical GPUs."""
        return sum(self.node_gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What the trainer asks Ray for. `device` is where tensors live, `backend` how gradients travel."""

    workers: int
    cpus: float
    gpus: float
    device: Literal["cuda", "cpu"]
    backend: Literal["nccl", "gloo"]

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.workers} workers x {self.cpus:g} CPU{gpus} on {self.device} ({self.backend})"


def place(spec: TrainSpec, cluster: Cluster) -> Placement:
    """Return the placement of a run.

    Raises:
        RequestError: The cluster can never hold it; the message says what is asked, what there is and what
            to change.
    """
    cpus = spec.resources.cpus
    gpus = _gpus_per_worker(spec, cluster)
    workers = spec.worker_range.min
    needed = workers * cpus + DATA_CPUS
    if needed > cluster.cpus:
        raise RequestError(
            f"{workers} workers x {cpus:g} CPU and {DATA_CPUS:g} CPU to feed them need {needed:g} CPUs; the "
            f"cluster has {cluster.cpus:g}. Lower `workers` or `resources.cpus`, or add nodes."
        )
    if workers * gpus > cluster.gpus:
        raise RequestError(
            f"{workers} workers x {gpus:g} GPU need {workers * gpus:g} GPUs; the cluster has "
            f"{cluster.gpus:g}. Set `resources.gpus: auto` to train on CPUs, lower `workers`, or add GPU nodes."
        )
    room = sum(_workers_on_node(c, g, cpus, gpus) for c, g in _nodes(cluster))
    if room < workers:
        raise RequestError(
            f"No placement holds {workers} workers of {cpus:g} CPU and {gpus:g} GPU each: the cluster's nodes "
            f"have room for {room}. Lower `workers` or what each asks for."
        )
    real = gpus > 0 and bool(cluster.accelerators)
    return Placement(
        workers=workers,
        cpus=cpus,
        gpus=gpus,
        device="cuda" if real else "cpu",
        backend="nccl" if real else "gloo",
    )


def _gpus_per_worker(spec: TrainSpec, cluster: Cluster) -> float:
    if spec.resources.gpus == "auto":
        room = sum(_workers_on_node(c, g, spec.resources.cpus, 1.0) for c, g in _nodes(cluster))
        return 1.0 if room >= spec.worker_range.min else 0.0
    return float(spec.resources.gpus)


def _nodes(cluster: Cluster) -> list[tuple[float, float]]:
    gpus = cluster.node_gpus or (0.0,) * len(cluster.node_cpus)
    return list(zip(cluster.node_cpus, gpus, strict=True))


def _workers_on_node(node_cpus: float, node_gpus: float, cpus: float, gpus: float) -> int:
    by_cpu = int(node_cpus / cpus + 1e-9)
    return min(by_cpu, int(node_gpus / gpus + 1e-9)) if gpus else by_cpu
