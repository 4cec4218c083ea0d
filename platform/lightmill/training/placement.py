"""Where the workers go. A pure decision: the specification and the cluster in, a placement or a refusal out.

Ray retries for ever what can never be placed, and hangs silently when workers take every CPU that streamed rows need;
both are refused here, before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lightmill.errors import RequestError
from lightmill.records.specs import TrainSpec

DATA_CPUS = 1.0
"""What Ray Data needs beside the workers where rows stream from the store."""
_EPSILON = 1e-9
LOGICAL = (
    "The cluster's GPUs are logical ones without a device (ray start --num-gpus): workers hold them, train on CPUs and "
    "talk over gloo."
)
SHARED = "Several workers share a GPU, which NCCL does not allow: they talk over gloo."


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A live node of Ray: its logical CPUs and GPUs, all or those that are free, and its labels.

    A GPU that `ray start --num-gpus` declared without a device has no `accelerator`. `memory_bytes` is what Ray has of
    the node's memory, None if it does not say.
    """

    cpus: float
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    accelerator: str | None = None
    memory_bytes: int | None = None
    name: str = ""

    def has(self, labels: Mapping[str, str]) -> bool:
        """Return whether the node has all of these labels."""
        return all(self.labels.get(key) == value for key, value in labels.items())

    def holds(self, cpus: float, gpus: float) -> int:
        """Return how many workers that ask for so much the node holds; they share a GPU, but none has parts of two."""
        by_cpu = int(self.cpus / cpus + _EPSILON)
        if not gpus:
            return by_cpu
        if gpus < 1:
            devices = int(self.gpus + _EPSILON)
            left = max(0.0, self.gpus - devices)
            return min(by_cpu, devices * int(1 / gpus + _EPSILON) + int(left / gpus + _EPSILON))
        return min(by_cpu, int(self.gpus / gpus + _EPSILON))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The live nodes."""

    nodes: tuple[Node, ...] = ()

    @property
    def cpus(self) -> float:
        """All logical CPUs."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """All logical GPUs."""
        return sum(node.gpus for node in self.nodes)

    def with_labels(self, labels: Mapping[str, str]) -> Cluster:
        """Return the nodes that have all of these labels."""
        return Cluster(nodes=tuple(node for node in self.nodes if node.has(labels)))

    def room(self, cpus: float, gpus: float, labels: Mapping[str, str]) -> int:
        """Return how many workers that ask for so much the nodes with these labels hold."""
        return sum(node.holds(cpus, gpus) for node in self.with_labels(labels).nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What the trainer asks Ray for. `device` is where tensors live, `backend` how gradients travel.

    Training begins when `workers` fit; an elastic run grows up to `most`. `data_cpus` are needed beside them.
    """

    workers: int
    most: int
    cpus: float
    gpus: float
    device: Literal["cuda", "cpu"]
    backend: Literal["nccl", "gloo"]
    labels: Mapping[str, str] = field(default_factory=dict)
    spread: bool = False
    data_cpus: float = 0.0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as progress shows it."""
        count = f"{self.workers}..{self.most}" if self.elastic else str(self.workers)
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        labels = f" where {_pairs(self.labels)}" if self.labels else ""
        return f"{count} workers x {self.cpus:g} CPU{gpus}{labels} on {self.device} ({self.backend})"

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change."""
        return self.most > self.workers

    @property
    def resources(self) -> dict[str, float]:
        """What each worker asks for."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})

    def awaited(self, free: Cluster) -> str:
        """Return what must become free until training can begin, as in "2 more CPUs on a node with pool=train".

        Empty if it can begin now.
        """
        return awaited(free, self.workers, self.cpus, self.gpus, self.labels, self.data_cpus)


def place(spec: TrainSpec, cluster: Cluster, *, streamed: bool = False) -> Placement:
    """Return the placement of a run; `streamed` rows need CPUs of their own.

    Raises:
        RequestError: The cluster as it is can never hold it; the message says what is asked, what there is and what to
            change.
    """
    asked = spec.resources
    some = cluster.with_labels(asked.labels)
    gpus = gpus_each(spec, some)
    workers, cpus = spec.worker_range.min, asked.cpus
    data_cpus = DATA_CPUS if streamed else 0.0
    if asked.labels and not some.nodes:
        raise RequestError(_no_such_node(asked.labels, cluster))
    _refuse_totals(workers, cpus, gpus, data_cpus, cluster, some, asked.labels)
    room = some.room(cpus, gpus, {})
    if room < workers:
        raise RequestError(
            f"No placement holds {workers} workers of {cpus:g} CPU and {gpus:g} GPU each: {_nodes(asked.labels)} have "
            f"room for {room}. Lower `workers` or what each asks for."
        )
    devices = [node.accelerator for node in some.nodes if node.holds(cpus, gpus)] if gpus else []
    real = bool(devices) and all(devices)
    notes = (LOGICAL,) if gpus and not real else (SHARED,) if real and gpus < 1 else ()
    return Placement(
        workers=workers,
        most=spec.worker_range.max,
        cpus=cpus,
        gpus=gpus,
        device="cuda" if real else "cpu",
        backend="nccl" if real and gpus >= 1 else "gloo",
        labels=asked.labels,
        spread=asked.spread,
        data_cpus=data_cpus,
        notes=notes,
    )


def gpus_each(spec: TrainSpec, cluster: Cluster) -> float:
    """Return the GPUs of a worker: what is asked, or with `auto` one where the cluster has enough of them."""
    if spec.resources.gpus != "auto":
        return float(spec.resources.gpus)
    return 1.0 if cluster.room(spec.resources.cpus, 1.0, spec.resources.labels) >= spec.worker_range.min else 0.0


def awaited(
    free: Cluster, workers: int, cpus: float, gpus: float, labels: Mapping[str, str], data_cpus: float = 0.0
) -> str:
    """Return what `free` lacks for so many workers and the CPUs of their data; empty if nothing."""
    lacking = max(0, workers - free.room(cpus, gpus, labels))
    if lacking:
        where = "a node" if lacking == 1 else "nodes"
        found = f"{_count(lacking * cpus, 'more CPU')}" + (f" and {_count(lacking * gpus, 'GPU')}" if gpus else "")
        found += f" on {where} with {_pairs(labels)}" if labels else ""
        return f"{found} for {lacking} of {workers} workers"
    short = workers * cpus + data_cpus - free.cpus
    return f"{_count(short, 'more CPU')} to feed {workers} workers" if short > _EPSILON else ""


def _refuse_totals(
    workers: int,
    cpus: float,
    gpus: float,
    data_cpus: float,
    cluster: Cluster,
    some: Cluster,
    labels: Mapping[str, str],
) -> None:
    feeding = f" and {data_cpus:g} CPU to feed them" if data_cpus else ""
    needed = workers * cpus + data_cpus
    there = cluster.cpus if data_cpus and workers * cpus <= some.cpus else some.cpus
    if needed > there + _EPSILON:
        raise RequestError(
            f"{workers} workers x {cpus:g} CPU{feeding} need {needed:g} CPUs; {_nodes(labels)} have {there:g}. Lower "
            "`workers` or `resources.cpus`, or add nodes."
        )
    if workers * gpus > some.gpus + _EPSILON:
        raise RequestError(
            f"{workers} workers x {gpus:g} GPU need {workers * gpus:g} GPUs; {_nodes(labels)} have {some.gpus:g}. Set "
            "`resources.gpus: auto` to train on CPUs, lower `workers`, or add GPU nodes."
        )


def _no_such_node(labels: Mapping[str, str], cluster: Cluster) -> str:
    known = sorted({f"{key}={value}" for node in cluster.nodes for key, value in _own(node.labels).items()})
    have = f"they have {', '.join(known)}" if known else "they have no labels"
    return (
        f"No node has resources.labels {_pairs(labels)}; {have}. Change `resources.labels`, start a node with "
        f"`ray start --labels={_pairs(labels)}`, or set `resources.wait_for_nodes_s` where an autoscaler adds some."
    )


def _own(labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels without those that Ray gives to each node."""
    return {key: value for key, value in labels.items() if key != "ray.io/node-id"}


def _nodes(labels: Mapping[str, str]) -> str:
    return f"the cluster's nodes with {_pairs(labels)}" if labels else "the cluster's nodes"


def _pairs(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _count(value: float, what: str) -> str:
    return f"{value:g} {what}" + ("" if value == 1 else "s")


__all__ = ["Cluster", "Node", "Placement", "awaited", "gpus_each", "place"]
