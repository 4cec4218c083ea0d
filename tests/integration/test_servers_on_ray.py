"""Parameter servers as Ray actors, with workers that are Ray actors too, as in a run."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch.distributed as dist

from lightmill.errors import UnavailableError
from lightmill.training.servers.on_ray import RayServers, actor_name, find_actors
from lightmill.training.strategies import Strategy
from lightmill.training.strategies.parameter_server import ParameterServer
from lightmill.training.team import Team
from tests.platforms import ROOT
from tests.teams import Trained, run, same
from tests.unit.training.strategies.cases import labelled
from tests.unit.training.strategies.test_parameter_server import OPTIONS, hindered, measured, server

pytestmark = [pytest.mark.slow, pytest.mark.integration]
WORLD = 2
PATIENCE_S = 60.0


class Worker:
    """One of a team, for one run after another."""

    def train(self, rank: int, port: int, make: Any, after: Any, more: dict[str, Any]) -> Trained:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
        try:
            return run(make, Team.joined(), after, more)
        finally:
            dist.destroy_process_group()


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Any]]:
    path = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    ray.init(
        num_cpus=WORLD, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}}
    )
    kind: Any = ray.remote(num_cpus=0.5)(Worker)
    yield [kind.remote() for _ in range(WORLD)]
    ray.shutdown()


def trained(workers: list[Any], make: Any, after: Any, **more: Any) -> list[Trained]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return ray.get([worker.train.remote(rank, port, make, after, more) for rank, worker in enumerate(workers)])


def test_actors_that_wait_for_all_step_as_one_process_and_end_with_the_run(workers: list[Any]) -> None:
    more = OPTIONS["clipped"]
    found = trained(workers, labelled, measured, **more, **server("bsp", servers=2))
    same(run(labelled, Team.alone(), None, more), found[0])
    assert found[0].after[0]["staleness_max"] == 0


def test_actors_hold_workers_within_the_bound_of_a_slow_one_and_lose_nothing(workers: list[Any]) -> None:
    found = trained(workers, hindered, measured, **server("ssp", staleness=2, servers=2), batch_size=6)
    assert found[0].after[0]["staleness_max"] <= 2
    assert found[0].after[0]["server_updates"] == WORLD * 2 * 16


def killed(strategy: Strategy) -> str:
    """Kill a server under both workers, and say what a worker is told."""
    assert isinstance(strategy, ParameterServer) and isinstance(strategy.links, RayServers)
    dist.barrier()
    if strategy.setting.team.leads:
        ray.kill(strategy.links._actors[0])
    try:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            strategy.links.ask("parameters")
    except UnavailableError as exc:
        return exc.message
    return "nothing"


def test_a_server_that_is_lost_is_unavailable_to_all_workers(workers: list[Any]) -> None:
    for one in trained(workers, labelled, killed, **server("asp")):
        assert "goes on from its last checkpoint" in one.after[0]


@pytest.mark.usefixtures("workers")
def test_servers_of_an_earlier_attempt_are_not_met() -> None:
    with pytest.raises(UnavailableError, match="are gone"):
        find_actors("lightmill-servers-earlier", 1)
    assert actor_name("a", 1) == "a-1"


@pytest.mark.usefixtures("workers")
def test_no_server_outlives_its_run() -> None:
    end = time.monotonic() + PATIENCE_S
    while any(name.startswith("lightmill-servers-") for name in ray.util.list_named_actors()):
        assert time.monotonic() < end, "a server outlived its run"
        time.sleep(0.1)
