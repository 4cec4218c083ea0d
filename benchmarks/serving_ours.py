"""Our side of the serving benchmarks: a platform that serves the networks of the peers, with everything on."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from benchmarks.figures import note
from benchmarks.serving_peers import Server, replicas
from benchmarks.serving_wire import WORKLOADS, Ask, inference
from tests.platforms import BIN, ROOT, TestPlatform, temporary_platform

OURS = "lightmill"
MODELS = {name: name.partition("_")[0] for name in WORKLOADS}
"""The endpoint that answers a workload: it always batches, so that one serves both of the network's."""
PUBLISHER = Path(__file__).with_name("serving_models.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(Server):
    """An endpoint of the platform, or what stands in its place at `prefix`."""

    platform: TestPlatform
    application: str
    headers: Mapping[str, str]

    def ask(self, workload: str) -> Ask | None:
        """Return a workload's request by the Open Inference Protocol, with a key."""
        model = MODELS[workload]
        found = inference(workload, model)
        path = f"{self.prefix}/infer" if self.prefix else found.path
        return Ask(path=path, body=found.body, headers={**found.headers, **self.headers})

    def processes(self) -> list[psutil.Process]:
        """Return HAProxy and the endpoint's replicas."""
        return replicas(self.platform, self.application)


@contextmanager
def serving_platform(*endpoints: str, **settings: str) -> Iterator[TestPlatform]:
    """Bring a platform up that serves these networks, each by one replica of one thread."""
    with temporary_platform() as made:
        platform = TestPlatform(made.environment | settings, made.home)
        note("  starting the platform ...")
        platform.lightmill("up", "--json")
        publish(platform, *endpoints)
        for name in endpoints:
            deploy(platform, name)
        yield platform


def deploy(platform: TestPlatform, name: str, **spec: object) -> None:
    """Deploy a network's newest version, and wait until it answers."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"name": name, "model": f"{name}@champion", **spec}, file)
        file.flush()
        platform.lightmill("deploy", file.name)


def endpoint(platform: TestPlatform, name: str) -> Endpoint:
    """Return an endpoint as the benchmarks ask it: with a key in the header."""
    return Endpoint(
        name=OURS,
        url=platform.url,
        root=None,
        pauses=False,
        platform=platform,
        application=f"endpoint-{name}",
        headers={"X-API-Key": platform.key},
    )


def publish(platform: TestPlatform, *names: str) -> list[dict[str, object]]:
    """Publish a next version of networks, and return what the publisher says of each."""
    done = platform.run(BIN / "python", PUBLISHER, *names, PYTHONPATH=f"{ROOT}:{ROOT / 'platform'}")
    return [json.loads(line) for line in done.out.strip().splitlines()]


def cpu_s(processes: list[psutil.Process]) -> float:
    """Return the user and system seconds of processes that live."""
    found = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
            found += times.user + times.system
        except psutil.Error:
            continue
    return found
