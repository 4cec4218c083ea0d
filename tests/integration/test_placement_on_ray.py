"""Where workers go, on real Ray nodes with labels and logical GPUs; and what is said while they are awaited."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster as RayCluster

from lightmill.errors import RequestError, UnavailableError
from lightmill.records.assets import Provenance
from lightmill.records.jobs import EpochMetrics, Progress
from lightmill.records.specs import TrainSpec
from lightmill.training.fit import Watchers, train
from lightmill.training.placement import LOGICAL, place
from lightmill.training.waiting import describe_cluster, find_place, free_cluster, scaling_of, wait_for_room
from tests.unit.training.sealed_rows import seal_rows

pytestmark = [pytest.mark.integration, pytest.mark.slow]
POOL = {"pool": "train"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayCluster]:
    """A head of one CPU, and a node of two CPUs and a logical GPU with a label."""
    cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=2, num_gpus=1, labels=POOL)
    ray.init(address=cluster.address, log_to_driver=True)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def spec(**more: Any) -> TrainSpec:
    base = {"model": "m", "dataset": "d@1", "architecture": {"name": "logistic"}, "epochs": 2, "batch_size": 4}
    return TrainSpec.model_validate(base | more)


def on_pool(nodes: Any) -> Any:
    return next(node for node in nodes.nodes if node.has(POOL))


def test_two_workers_share_a_logical_gpu_on_the_node_with_the_label(nodes: RayCluster, tmp_path: Path) -> None:
    """They take all CPUs of the node, train over gloo, and the run says so."""
    sealed = seal_rows(tmp_path)
    notes: list[str] = []
    said: list[Progress] = []
    free: list[tuple[float, float]] = []

    def on_epoch(_: EpochMetrics) -> None:
        node = on_pool(free_cluster())
        free.append((node.cpus, node.gpus))

    asked = spec(workers=2, resources={"gpus": 0.5, "labels": POOL})
    found = train(
        asked,
        "run-1",
        tmp_path / "runs",
        sealed.world.registry,
        sealed.location,
        Provenance(run="run-1"),
        Watchers(report=said.append, on_epoch=on_epoch, note=notes.append),
    )
    assert found.id.name == "m" and "test_accuracy" in found.metrics
    assert notes == [LOGICAL] and LOGICAL in [one.phase for one in said]
    assert "start 2 workers x 1 CPU, 0.5 GPU where pool=train on cpu (gloo)" in [one.phase for one in said]
    assert (0.0, 0.0) in free, "the workers hold the labelled node"


def test_a_run_waits_for_a_node_with_its_label_and_says_so(nodes: RayCluster) -> None:
    late = {"pool": "late"}
    asked = spec(workers=2, resources={"gpus": 0, "labels": late, "wait_for_nodes_s": 120})
    with pytest.raises(RequestError, match=r"No node has resources.labels pool=late; they have .*pool=train"):
        place(asked, describe_cluster())
    said: list[str] = []
    waiting = threading.Event()

    def report(progress: Progress) -> None:
        said.append(progress.phase)
        waiting.set()

    with ThreadPoolExecutor() as pool:
        placing = pool.submit(find_place, asked, report, streamed=False)
        assert waiting.wait(60)
        nodes.add_node(num_cpus=2, labels=late)
        placement = placing.result(timeout=120)
    assert said[0] == "wait for 2 more CPUs on nodes with pool=late for 2 of 2 workers"
    assert (placement.workers, placement.labels) == (2, late)
    assert scaling_of(placement).label_selector == late


def test_what_others_hold_is_awaited_by_node(nodes: RayCluster) -> None:
    """The head's CPU is free, but not on the node that is asked for."""

    @ray.remote(num_cpus=1, num_gpus=0.1)
    class Holder:
        def there(self) -> bool:
            return True

    holder = Holder.options(label_selector=POOL).remote()  # pyright: ignore
    assert ray.get(holder.there.remote())
    said: list[str] = []
    placement = place(spec(workers=2, resources={"gpus": 0, "labels": POOL}), describe_cluster())
    with pytest.raises(UnavailableError, match="1 more CPU on a node with pool=train for 1 of 2 workers"):
        wait_for_room(placement, lambda progress: said.append(progress.phase), wait_s=1.0)
    assert said[0] == "wait for 1 more CPU on a node with pool=train for 1 of 2 workers"
    ray.kill(holder)
    wait_for_room(placement, lambda _: None, wait_s=30.0)
