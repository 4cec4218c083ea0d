"""From the cluster as it is to a place for a run: waits for nodes that the autoscaler brings, and for others to end."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray
from ray._private.state import available_resources_per_node
from ray.autoscaler.sdk import request_resources
from ray.train import ScalingConfig

from lightmill.errors import RequestError, UnavailableError
from lightmill.records.jobs import Progress
from lightmill.records.specs import TrainSpec
from lightmill.training.placement import Cluster, Node, Placement, awaited, gpus_each, place

WAIT_FOR_ROOM_S = 120.0
NODE_POLL_S = 5.0
ROOM_POLL_S = 0.5
_ACCELERATOR = "accelerator_type:"
RESIZE_S = 30.0
"""How often a run with a range of workers looks whether more of them fit, in seconds: each change is a restart."""
Report = Callable[[Progress], None]


def find_place(spec: TrainSpec, report: Report, *, streamed: bool) -> Placement:
    """Return where a run goes, as soon as it can begin there; progress says what is awaited.

    Raises:
        RequestError: The cluster cannot hold it, and no node that could came in time.
        UnavailableError: Others hold what it needs for too long.
    """
    try:
        placement = place_or_wait(spec, report, streamed=streamed)
        wait_for_room(placement, report)
    finally:
        if spec.resources.wait_for_nodes_s:
            request_resources(bundles=[])  # the request would outlive this job; the placement group holds the nodes
    for note in placement.notes:
        report(Progress(phase=note, unit="epochs"))
    return placement


def describe_cluster() -> Cluster:
    """Return what Ray's live nodes offer."""
    return Cluster(nodes=tuple(_node(node, node["Resources"]) for node in ray.nodes() if node["Alive"]))


def free_cluster() -> Cluster:
    """Return what is free on Ray's live nodes."""
    free = available_resources_per_node()
    return Cluster(nodes=tuple(_node(node, free.get(node["NodeID"], {})) for node in ray.nodes() if node["Alive"]))


def _node(node: dict, resources: dict) -> Node:
    kinds = [key.removeprefix(_ACCELERATOR) for key in node["Resources"] if key.startswith(_ACCELERATOR)]
    memory = node["Resources"].get("memory")
    store = node["Resources"].get("object_store_memory", 0)
    return Node(
        cpus=float(resources.get("CPU", 0)),
        gpus=float(resources.get("GPU", 0)),
        labels=dict(node.get("Labels") or {}),
        accelerator=kinds[0] if kinds else None,
        memory_bytes=None if memory is None else int(memory + store),
        name=node.get("NodeManagerAddress", ""),
    )


def scaling_of(placement: Placement) -> ScalingConfig:
    """Return a placement as Ray Train takes it."""
    return ScalingConfig(
        num_workers=(placement.workers, placement.most) if placement.elastic else placement.workers,
        use_gpu=placement.gpus > 0,
        resources_per_worker=placement.resources,
        placement_strategy="SPREAD" if placement.spread else "PACK",
        label_selector=dict(placement.labels) or None,
        elastic_resize_monitor_interval_s=RESIZE_S,
    )


def place_or_wait(spec: TrainSpec, report: Report, *, streamed: bool = False) -> Placement:
    """Place a run on the cluster as it is, or, if the specification waits for nodes, as it becomes.

    Raises:
        RequestError: The cluster cannot hold it, and no node that could came in time.
    """
    end = time.monotonic() + spec.resources.wait_for_nodes_s
    while True:
        cluster = describe_cluster()
        try:
            return place(spec, cluster, streamed=streamed)
        except RequestError:
            if time.monotonic() >= end:
                raise
        asked, least = spec.resources, spec.worker_range.min
        gpus = gpus_each(spec, cluster)
        bundle = {"CPU": asked.cpus} | ({"GPU": gpus} if gpus else {})
        request_resources(bundles=[bundle] * least, bundle_label_selectors=[dict(asked.labels)] * least)
        lacking = awaited(cluster, least, asked.cpus, gpus, asked.labels, 1.0 if streamed else 0.0)
        report(Progress(phase=f"wait for {lacking or 'nodes'}", unit="epochs"))
        time.sleep(max(0.0, min(NODE_POLL_S, end - time.monotonic())))


def wait_for_room(placement: Placement, report: Report, wait_s: float = WAIT_FOR_ROOM_S) -> None:
    """Return when the cluster has the placement's resources free.

    Raises:
        UnavailableError: Others hold them for longer than `wait_s` seconds.
    """
    end = time.monotonic() + wait_s
    while lacking := placement.awaited(free_cluster()):
        if time.monotonic() > end:
            raise UnavailableError(
                f"The cluster stayed busy for {wait_s:g} s: {lacking} must become free for {placement}. Try again "
                "later, lower `workers`, or add nodes."
            )
        report(Progress(phase=f"wait for {lacking}", unit="epochs"))
        time.sleep(ROOM_POLL_S)
