"""How much memory a worker finds on a node, and how many workers of a size the nodes hold."""

from __future__ import annotations

from lightmill.training.placement import Cluster, Node, Placement

PROCESS_BYTES = 450_000_000
"""A worker's process with Python, torch and Ray, before it has a model."""
_GIB = 1 << 30
DEVICE_BYTES = {
    "K80": 12 * _GIB,
    "P4": 8 * _GIB,
    "P100": 16 * _GIB,
    "T4": 16 * _GIB,
    "V100": 32 * _GIB,
    "L4": 24 * _GIB,
    "A10G": 24 * _GIB,
    "L40S": 48 * _GIB,
    "A100": 80 * _GIB,
    "A100-40G": 40 * _GIB,
    "A100-80G": 80 * _GIB,
    "H100": 80 * _GIB,
    "H20": 96 * _GIB,
    "H200": 141 * _GIB,
    "B200": 192 * _GIB,
}
"""GPUs by Ray's names; where a name stands for several sizes, the largest."""


def memory_each(node: Node, placement: Placement) -> int | None:
    """Return the most memory that one worker finds on a node, or on its GPU; None where nobody knows.

    On a node's CPUs it is what Ray counts as the node's memory, with its object store.
    """
    if placement.device == "cuda":
        return DEVICE_BYTES.get(node.accelerator or "")
    return node.memory_bytes


def holds(node: Node, placement: Placement, worker_bytes: int) -> int:
    """Return how many workers a node holds by what they ask for and by memory, where that is known."""
    asked = node.holds(placement.cpus, placement.gpus)
    room = memory_each(node, placement)
    if room is None:
        return asked
    if placement.device == "cpu":
        return min(asked, room // (worker_bytes + PROCESS_BYTES))
    devices = int(node.gpus / max(1.0, placement.gpus))
    return min(asked, devices * (room // max(1, worker_bytes)))


def fits(cluster: Cluster, placement: Placement, worker_bytes: int, workers: int) -> bool | None:
    """Return whether the nodes hold so many workers of so many bytes; None where no node's memory is known."""
    nodes = cluster.with_labels(placement.labels).nodes
    if all(memory_each(node, placement) is None for node in nodes):
        return None
    return sum(holds(node, placement, worker_bytes) for node in nodes) >= workers


def size_text(size_bytes: float) -> str:
    """Return a size for people, such as 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
