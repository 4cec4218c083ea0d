"""Where workers go: a table of what fits and what is refused, with what to change; and what is awaited until then."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lightmill.errors import RequestError
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec, WorkerResources
from lightmill.training.placement import DATA_CPUS, LOGICAL, SHARED, Cluster, Node, awaited, place

POOL = {"pool": "train"}


def spec(workers: int | str = 2, cpus: float = 1.0, gpus: Any = "auto", **more: Any) -> TrainSpec:
    return TrainSpec(
        model="m",
        dataset="d",
        architecture=Architecture(name="mlp"),
        workers=workers,
        batch_size=workers if isinstance(workers, int) else 64,
        resources=WorkerResources(cpus=cpus, gpus=gpus, **more),
    )


def cluster(*nodes: tuple[float, ...], real: bool = False, labels: dict[str, str] | None = None) -> Cluster:
    """Nodes of so many CPUs and GPUs; GPUs are devices if `real`."""
    made = []
    for cpus, *gpus in nodes:
        there = gpus[0] if gpus else 0.0
        made.append(Node(cpus=cpus, gpus=there, accelerator="A100" if real and there else None, labels=labels or {}))
    return Cluster(nodes=tuple(made))


@pytest.mark.parametrize(
    ("asked", "there", "expected"),
    [
        (spec(), cluster((8,)), (0, "cpu", "gloo")),
        (spec(), cluster((2,)), (0, "cpu", "gloo")),
        (spec(2, 0.5), cluster((1,)), (0, "cpu", "gloo")),
        (spec(4), cluster((1,), (3,)), (0, "cpu", "gloo")),
        (spec(), cluster((8, 1)), (0, "cpu", "gloo")),
        (spec(), cluster((8, 2)), (1, "cpu", "gloo")),
        (spec(), cluster((8, 2), real=True), (1, "cuda", "nccl")),
        (spec(gpus=0), cluster((8, 2), real=True), (0, "cpu", "gloo")),
        (spec(gpus=2), cluster((4, 2), (4, 2), real=True), (2, "cuda", "nccl")),
        (spec(gpus=0.5), cluster((8, 1)), (0.5, "cpu", "gloo")),
        (spec(4, 1, 0.5), cluster((8, 2), real=True), (0.5, "cuda", "gloo")),
        (spec(1, 0.1), cluster((0.1,)), (0, "cpu", "gloo")),
        (spec(labels=POOL), cluster((2,), labels=POOL), (0, "cpu", "gloo")),
    ],
    ids=[
        "plain",
        "all CPUs",
        "half CPUs on a small machine",
        "over two nodes",
        "too few GPUs for auto",
        "logical GPUs",
        "real GPUs",
        "GPUs not wanted",
        "two GPUs each on two nodes",
        "shared logical GPU",
        "shared real GPUs",
        "fractions",
        "nodes with a label",
    ],
)
def test_what_fits_is_placed(asked: TrainSpec, there: Cluster, expected: tuple[float, str, str]) -> None:
    found = place(asked, there)
    assert (found.gpus, found.device, found.backend) == expected
    assert (found.workers, found.cpus) == (asked.workers, asked.resources.cpus)
    assert str(found.workers) in str(found) and found.backend in str(found)


@pytest.mark.parametrize(
    ("asked", "there", "named"),
    [
        (spec(5), cluster((2,)), ("5 workers", "need 5 CPUs", "have 2", "add nodes")),
        (spec(1, 3), cluster((2,)), ("1 workers", "need 3 CPUs", "`resources.cpus`")),
        (spec(gpus=1), cluster((8,)), ("need 2 GPUs", "have 0", "resources.gpus: auto")),
        (spec(gpus=1), cluster((8, 1)), ("need 2 GPUs", "have 1", "add GPU nodes")),
        (spec(2, 3), cluster((2,), (2,), (2,), (2,)), ("No placement", "3 CPU", "room for 0")),
        (spec(3, 3), cluster((5,), (5,)), ("No placement", "3 workers", "room for 2")),
        (spec(2, 1, 2), cluster((8, 1), (8, 1), (8, 1), (8, 1)), ("No placement", "2 GPU", "room for 0")),
        (spec(5, 1, 0.4), cluster((8, 1), (8, 1)), ("No placement", "room for 4")),
        (spec(2, 4, 1), cluster((1, 2), (8, 0)), ("No placement", "room for 0")),
        (spec(1), cluster(), ("need 1 CPUs", "have 0")),
        (
            spec(labels=POOL),
            cluster((8,)),
            ("resources.labels pool=train", "no labels", "ray start --labels=pool=train"),
        ),
        (spec(labels=POOL), cluster((8,), labels={"pool": "web"}), ("No node has", "they have pool=web")),
        (
            spec(2, labels=POOL),
            Cluster(nodes=(Node(cpus=8), Node(cpus=1, labels=POOL))),
            ("need 2 CPUs", "nodes with pool=train have 1"),
        ),
    ],
    ids=[
        "too many workers",
        "one large worker",
        "no GPUs",
        "too few GPUs",
        "nodes too small",
        "one worker a node",
        "GPUs too scattered",
        "no worker has parts of two GPUs",
        "CPUs and GPUs on different nodes",
        "no nodes",
        "no labels at all",
        "another label",
        "too few nodes with the label",
    ],
)
def test_what_can_never_be_placed_is_refused_at_once(asked: TrainSpec, there: Cluster, named: tuple[str, ...]) -> None:
    with pytest.raises(RequestError) as caught:
        place(asked, there)
    assert [part for part in named if part not in caught.value.message] == [], caught.value.message


def test_only_streamed_rows_need_a_cpu_of_their_own() -> None:
    assert place(spec(), cluster((2,))).data_cpus == 0
    with pytest.raises(RequestError, match="2 workers x 1 CPU and 1 CPU to feed them need 3 CPUs"):
        place(spec(), cluster((2,)), streamed=True)
    other = Cluster(nodes=(Node(cpus=2, labels=POOL), Node(cpus=1)))
    assert place(spec(labels=POOL), other, streamed=True).data_cpus == DATA_CPUS, "rows may be read elsewhere"


def test_auto_falls_back_to_cpus_where_the_gpus_cannot_hold_the_workers() -> None:
    assert place(spec(), cluster((0.5, 2), (8, 0), real=True)).device == "cpu"


def test_what_is_not_as_a_user_may_think_is_said() -> None:
    assert place(spec(), cluster((8, 2))).notes == (LOGICAL,)
    assert place(spec(gpus=0.5), cluster((8, 1), real=True)).notes == (SHARED,)
    assert place(spec(), cluster((8, 2), real=True)).notes == ()
    assert place(spec(gpus=0), cluster((8, 2))).notes == ()


def test_an_elastic_run_is_placed_when_its_fewest_workers_fit() -> None:
    found = place(spec("2..8"), cluster((3,)))
    assert (found.workers, found.most) == (2, 8) and str(found).startswith("2..8 workers x 1 CPU on cpu")
    with pytest.raises(RequestError, match="2 workers"):
        place(spec("2..8"), cluster((1,)))


@pytest.mark.parametrize(
    ("free", "asked", "said"),
    [
        (cluster((4,)), (4, 1.0, 0.0, {}), ""),
        (cluster((1,), labels=POOL), (3, 1.0, 0.0, POOL), "2 more CPUs on nodes with pool=train for 2 of 3 workers"),
        (cluster((4,)), (1, 2.0, 0.0, POOL), "2 more CPUs on a node with pool=train for 1 of 1 workers"),
        (cluster((4, 1)), (2, 1.0, 1.0, {}), "1 more CPU and 1 GPU for 1 of 2 workers"),
        (cluster((4, 1)), (4, 0.5, 0.5, {}), "1 more CPU and 1 GPU for 2 of 4 workers"),
    ],
)
def test_what_is_awaited_is_named(free: Cluster, asked: tuple[Any, ...], said: str) -> None:
    assert awaited(free, *asked) == said


def test_cpus_for_streamed_rows_are_awaited_too() -> None:
    assert awaited(cluster((2,)), 2, 1.0, 0.0, {}, DATA_CPUS) == "1 more CPU to feed 2 workers"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"gpus": 1.5}, "1.5 GPUs are no whole number"),
        ({"labels": {"pool": "!train"}}, "no label of Ray"),
        ({"labels": {"pool": "in(a,b)"}}, "no label of Ray"),
        ({"labels": {"-pool": "a"}}, "no label of Ray"),
    ],
)
def test_resources_that_ray_would_take_for_something_else_are_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec(**more)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0]),
    st.sampled_from(["auto", 0, 0.3, 0.5, 1, 2]),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4), st.booleans()), max_size=4),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_every_placement_fits_and_what_does_not_fit_is_awaited(
    workers: int,
    cpus: float,
    gpus: Any,
    nodes: list[tuple[int, int, bool]],
    real: bool,
    labelled: bool,
    streamed: bool,
) -> None:
    there = Cluster(
        nodes=tuple(
            Node(cpus=float(c), gpus=float(g), accelerator="T4" if real and g else None, labels=POOL if has else {})
            for c, g, has in nodes
        )
    )
    labels = POOL if labelled else {}
    try:
        found = place(spec(workers, cpus, gpus, labels=labels), there, streamed=streamed)
    except RequestError as exc:
        assert "workers" in exc.message or "resources.labels" in exc.message
        known = 0.0 if gpus == "auto" else float(gpus)
        lacking = awaited(there, workers, cpus, known, labels, DATA_CPUS if streamed else 0.0)
        assert lacking, "what is refused lacks something"
        return
    assert found.awaited(there) == ""
    left = workers
    for node_cpus, node_gpus, has in nodes:
        if labelled and not has:
            continue
        room = node_cpus // cpus
        by_gpu = node_gpus * (1 // found.gpus) if 0 < found.gpus < 1 else node_gpus // (found.gpus or 1)
        left -= min(room, by_gpu) if found.gpus else room
    assert left <= 0
    assert workers * cpus + (DATA_CPUS if streamed else 0) <= there.cpus
    assert workers * found.gpus <= there.gpus
    assert found.device == "cpu" or real
    assert (found.backend == "nccl") is (found.device == "cuda" and found.gpus >= 1)
