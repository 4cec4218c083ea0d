"""A run with 1 to 3 workers on a cluster of three nodes, which loses one while it trains.

`lost`: with no notice, and one is added later. `preempted`: some seconds after a notice, and no failure of a worker is
allowed. Every worker writes down which rows it had in which step.
Run: python -m tests.integration.elastic_run HOME FOLDER lost|preempted
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightmill.settings import Settings
from lightmill.wiring.bootstrap import bootstrap
from tests.platforms import free_ports

WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
SPEC_EPOCHS, STEP_S, NOTICE_S = 6, 0.15, 10
CHANGES: dict[str, dict[str, Any]] = {
    "lost": {"checkpoints": {"every_steps": 10}, "failures": {"worker": 20, "controller": 20}},
    "preempted": {"checkpoints": {"pause_s": 600}, "failures": {"worker": 0, "controller": 20}},
}
AGENTS = ("metrics_agent_port", "dashboard_agent_listen_port", "metrics_export_port", "runtime_env_agent_port")


class Written:
    """A feed that writes down the rows of each step when it is taken, and takes its time."""

    def __init__(self, feed: Any, folder: Path, rank: int, world: int) -> None:
        self._feed = feed
        self._path = folder / f"{time.time_ns()}-{rank}-{world}.jsonl"

    def epoch(self, number: int, first_step: int = 0) -> Iterator[Any]:
        for step, batch in enumerate(self._feed.epoch(number, first_step), first_step):
            with self._path.open("a") as file:
                line = {"epoch": number, "step": step, "rows": self._feed.row_ids(number, step)}
                file.write(json.dumps(line) + "\n")
            time.sleep(STEP_S)
            yield batch

    def row_ids(self, epoch: int, step: int) -> list[int]:
        return self._feed.row_ids(epoch, step)


def written_worker(config: dict[str, Any]) -> None:
    """Train as every worker does, with a feed that writes."""
    import ray.train
    import torch

    from lightmill.training.loop import LoopConfig, Worker
    from lightmill.training.session import RaySession
    from lightmill.training.team import Team

    found = LoopConfig.model_validate_json(config["config"])
    context = ray.train.get_context()
    team = Team(rank=context.get_world_rank(), world=context.get_world_size(), device=torch.device("cpu"))
    worker = Worker(found, team, RaySession(found.location, found.run))
    feed: Any = Written(worker._feed, Path(found.run_folder).parent / "seen", team.rank, team.world)
    worker._feed = feed
    worker.train()


def main() -> None:
    settings, folder, how = Settings(home=Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3]
    bootstrap(settings)
    os.environ.update(settings.node_environment())
    os.environ[WATCHER] = "1"  # off on a single machine, which nobody takes back
    import ray
    from ray.cluster_utils import Cluster

    from lightmill.records.assets import Provenance
    from lightmill.records.specs import TrainSpec
    from lightmill.training import fit, waiting
    from lightmill.wiring import open_platform
    from tests.integration.numbers import train_spec

    cluster = Cluster(initialize_head=True, head_node_args=node() | {"include_dashboard": False})
    nodes = [cluster.add_node(**node()) for _ in range(2)]
    cluster.wait_for_nodes()
    ingest = [sys.executable, "jobs/ingest.py", str(folder / "dataset.yaml")]
    subprocess.run(ingest, env=os.environ | {"RAY_ADDRESS": cluster.address}, check=True, stdout=sys.stderr)
    ray.init(address=cluster.address, namespace="lightmill")
    platform = open_platform(settings)
    seen = folder / "seen"
    seen.mkdir()
    waiting.RESIZE_S = 3.0
    fit.train_worker = written_worker
    spec = TrainSpec.model_validate(
        train_spec(
            workers="1..3",
            epochs=SPEC_EPOCHS,
            resources={"cpus": 1},
            **CHANGES[how],
        )
    )
    watchers = fit.Watchers(report=lambda _: None, on_epoch=lambda _: None)
    with ThreadPoolExecutor() as pool:  # Ray adds a node in the main thread only
        training = pool.submit(
            fit.train,
            spec,
            "elastic",
            folder,
            platform.registry,
            platform.location,
            Provenance(run="elastic"),
            watchers,
        )
        {"lost": lose, "preempted": preempt}[how](cluster, nodes, seen, training)
        summary = training.result()
    print(json.dumps({"metrics": summary.metrics}))
    ray.shutdown()
    cluster.shutdown()


def node() -> dict[str, int]:
    """What a node has: a CPU, and given ports for its agents, so that its start does not wait for them."""
    return {"num_cpus": 1, **dict(zip(AGENTS, free_ports(len(AGENTS)), strict=True))}


def steps_of_three(seen: Path) -> int:
    """How many steps the latest group of three workers has taken."""
    files = sorted(seen.glob("*-0-3.jsonl"))
    return len(files[-1].read_text().splitlines()) if files else 0


def lose(cluster: Any, nodes: list[Any], seen: Path, training: Future[Any]) -> None:
    """Kill a node in the middle of an epoch of three workers, and add one when fewer have taken some steps."""
    while steps_of_three(seen) < 15 and not training.done():
        time.sleep(0.1)
    cluster.remove_node(nodes[1], allow_graceful=False)
    while not any(len(file.read_text().splitlines()) > 15 for file in seen.glob("*-0-2.jsonl")) and not training.done():
        time.sleep(0.1)
    cluster.add_node(**node())


def preempt(cluster: Any, nodes: list[Any], seen: Path, training: Future[Any]) -> None:
    """Say in the middle of an epoch of three workers that a node goes, and kill it when its time is up."""
    while steps_of_three(seen) < 15 and not training.done():
        time.sleep(0.1)
    command = ["drain-node", "--address", cluster.address, "--node-id", nodes[1].node_id, "--reason"]
    told = ["DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test", "--deadline-remaining-seconds", str(NOTICE_S)]
    subprocess.run([Path(sys.executable).with_name("ray"), *command, *told], check=True, stdout=sys.stderr)
    time.sleep(NOTICE_S)
    cluster.remove_node(nodes[1], allow_graceful=False)


if __name__ == "__main__":
    main()
