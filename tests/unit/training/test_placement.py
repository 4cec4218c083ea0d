"""Where workers go: a table of what fits and what is refused, with what to change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import RequestError
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec, WorkerResources
from lightmill.training.placement import DATA_CPUS, Cluster, place

REAL = frozenset({"A100"})


def spec(workers: int = 2, cpus: float = 1.0, gpus: Any = "auto") -> TrainSpec:
    return TrainSpec(
        model="m",
        dataset="d",
        architecture=Architecture(name="mlp"),
        workers=workers,
        batch_size=workers,
        resources=WorkerResources(cpus=cpus, gpus=gpus),
    )


@pytest.mark.parametrize(
    ("asked", "cluster", "expected"),
    [
        (spec(), Cluster(node_cpus=(8.0,)), (0, "cpu", "gloo")),
        (spec(2, 0.5), Cluster(node_cpus=(2.0,)), (0, "cpu", "gloo")),
        (spec(), Cluster(node_cpus=(3.0,)), (0, "cpu", "gloo")),
        (spec(4), Cluster(node_cpus=(2.0, 3.0)), (0, "cpu", "gloo")),
        (spec(), Cluster(node_cpus=(8.0,), node_gpus=(1.0,)), (0, "cpu", "gloo")),
        (spec(), Cluster(node_cpus=(8.0,), node_gpus=(2.0,)), (1, "cpu", "gloo")),
        (spec(), Cluster(node_cpus=(8.0,), node_gpus=(2.0,), accelerators=REAL), (1, "cuda", "nccl")),
        (spec(gpus=0), Cluster(node_cpus=(8.0,), node_gpus=(2.0,), accelerators=REAL), (0, "cpu", "gloo")),
        (spec(gpus=2), Cluster(node_cpus=(4.0, 4.0), node_gpus=(2.0, 2.0), accelerators=REAL), (2, "cuda", "nccl")),
        (spec(gpus=0.5), Cluster(node_cpus=(8.0,), node_gpus=(1.0,)), (0.5, "cpu", "gloo")),
        (spec(1, 0.1), Cluster(node_cpus=(1.1,)), (0, "cpu", "gloo")),
    ],
    ids=[
        "plain",
        "half CPUs on a small machine",
        "exactly enough",
        "over two nodes",
        "too few GPUs for auto",
        "logical GPUs",
        "real GPUs",
        "GPUs not wanted",
        "two GPUs each on two nodes",
        "shared logical GPU",
        "fractions",
    ],
)
def test_what_fits_is_placed(asked: TrainSpec, cluster: Cluster, expected: tuple[float, str, str]) -> None:
    found = place(asked, cluster)
    assert (found.gpus, found.device, found.backend) == expected
    assert (found.workers, found.cpus) == (asked.workers, asked.resources.cpus)
    assert str(found.workers) in str(found) and found.backend in str(found)


@pytest.mark.parametrize(
    ("asked", "cluster", "named"),
    [
        (spec(), Cluster(node_cpus=(2.0,)), ("2 workers", "need 3 CPUs", "has 2", "Lower `workers`")),
        (spec(5), Cluster(node_cpus=(2.0,)), ("5 workers", "need 6 CPUs", "has 2", "add nodes")),
        (spec(1, 2), Cluster(node_cpus=(2.0,)), ("1 workers", "need 3 CPUs")),
        (spec(gpus=1), Cluster(node_cpus=(8.0,)), ("need 2 GPUs", "has 0", "resources.gpus: auto")),
        (spec(gpus=1), Cluster(node_cpus=(8.0,), node_gpus=(1.0,)), ("need 2 GPUs", "has 1", "add GPU nodes")),
        (spec(2, 3), Cluster(node_cpus=(2.0,) * 4), ("No placement", "3 CPU", "room for 0")),
        (spec(3, 3), Cluster(node_cpus=(5.0, 5.0)), ("No placement", "3 workers", "room for 2")),
        (
            spec(2, 1, 1.5),
            Cluster(node_cpus=(8.0,) * 3, node_gpus=(1.0,) * 3),
            ("No placement", "1.5 GPU", "room for 0"),
        ),
        (spec(2, 4, 1), Cluster(node_cpus=(1.0, 8.0), node_gpus=(2.0, 0.0)), ("No placement", "room for 0")),
        (spec(1), Cluster(node_cpus=()), ("need 2 CPUs", "has 0")),
    ],
    ids=[
        "a lazy dataset would starve",
        "too many workers",
        "one large worker",
        "no GPUs",
        "too few GPUs",
        "nodes too small",
        "one worker a node",
        "GPUs too scattered",
        "CPUs and GPUs on different nodes",
        "no nodes",
    ],
)
def test_what_can_never_be_placed_is_refused_at_once(
    asked: TrainSpec, cluster: Cluster, named: tuple[str, ...]
) -> None:
    with pytest.raises(RequestError) as caught:
        place(asked, cluster)
    assert [part for part in named if part not in caught.value.message] == [], caught.value.message


def test_auto_falls_back_to_cpus_where_the_gpus_cannot_hold_the_workers() -> None:
    cluster = Cluster(node_cpus=(0.5, 8.0), node_gpus=(2.0, 0.0), accelerators=REAL)
    assert place(spec(), cluster).device == "cpu"


@given(
    st.integers(1, 12),
    st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0]),
    st.sampled_from(["auto", 0, 0.5, 1, 2]),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), max_size=4),
    st.booleans(),
)
def test_every_placement_fits_and_leaves_a_cpu_for_the_data(
    workers: int, cpus: float, gpus: Any, nodes: list[tuple[int, int]], real: bool
) -> None:
    cluster = Cluster(
        node_cpus=tuple(float(c) for c, _ in nodes),
        node_gpus=tuple(float(g) for _, g in nodes),
        accelerators=REAL if real else frozenset(),
    )
    try:
        found = place(spec(workers, cpus, gpus), cluster)
    except RequestError as exc:
        assert "workers" in exc.message
        return
    left = workers
    for node_cpus, node_gpus in zip(cluster.node_cpus, cluster.node_gpus, strict=True):
        room = node_cpus // cpus
        left -= min(room, node_gpus // found.gpus) if found.gpus else room
    assert left <= 0
    assert workers * cpus + DATA_CPUS <= cluster.cpus
    assert workers * found.gpus <= cluster.gpus
    assert (found.device == "cuda") is (found.backend == "nccl")
    assert (found.device == "cuda") is (real and found.gpus > 0)
