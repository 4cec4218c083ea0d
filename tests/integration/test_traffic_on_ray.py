"""Traffic among versions on a whole platform: canaries, shadows, an alias that moves; and nobody's request is lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import torch

import lightmill
from lightmill.models.answers import signature_of
from lightmill.models.architectures import build_module
from lightmill.records.assets import ModelCard
from lightmill.records.rollouts import TrafficPhase, TrafficReport
from lightmill.records.signature import Architecture, Preprocessing, TensorSpec
from lightmill.registry import Registry
from lightmill.sdk import Client
from lightmill.settings import Settings
from lightmill.wiring.platform import open_platform
from tests.platforms import TestPlatform, temporary_platform
from tests.unit.registry.world import MODEL, seal

pytestmark = pytest.mark.slow

FLIPS = 100
CLIENTS = 3
SLOW = 6000
"""Units of each hidden layer of the slow model: some 36 million multiplications a layer and row."""


@dataclass
class Load:
    """What clients saw: statuses, versions, and whatever was no answer."""

    statuses: Counter[int] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return len(self.problems) + sum(count for status, count in self.statuses.items() if status != 200)


@contextmanager
def load(platform: TestPlatform, endpoint: str) -> Iterator[Load]:
    """Clients that ask, wait for the answer, and ask again, until the block ends."""
    found, stop = Load(), threading.Event()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}

    def client(number: int) -> None:
        headers = {"X-API-Key": platform.key, "X-User": f"user-{number}"}
        with httpx.Client(base_url=platform.url, headers=headers, timeout=60) as http:
            while not stop.is_set():
                try:
                    answer = http.post(f"/v2/models/{endpoint}/infer", json={"inputs": [tensor]})
                except httpx.HTTPError as exc:
                    found.problems.append(repr(exc))
                    continue
                found.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    found.versions[answer.json()["model_version"]] += 1
                else:
                    found.problems.append(f"{answer.status_code}: {answer.text[:200]}")
                time.sleep(0.01)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def publish(registry: Registry, hidden: list[int], seed: int, features: str = "x") -> int:
    """Seal a version of model `m` of 4 features and 3 classes; return its number."""
    torch.manual_seed(seed)
    arguments: dict[str, Any] = {"inputs": 4, "classes": 3, "hidden": hidden}
    architecture = Architecture(name="mlp", arguments=arguments)
    card = ModelCard(
        architecture=architecture,
        preprocessing=Preprocessing(),
        signature=signature_of(TensorSpec(name=features, datatype="FP32", shape=(4,)), 3),
        classes=("a", "b", "c"),
        metrics={},
    )
    draft = registry.begin(MODEL, "m")
    return registry.commit(draft, seal(draft, build_module(architecture).state_dict(), card)).id.seq


def until(look: Callable[[], TrafficReport], phases: set[TrafficPhase], seconds: float = 120) -> TrafficReport:
    end = time.monotonic() + seconds
    while True:
        report = look()
        if report.phase in phases:
            return report
        assert time.monotonic() < end, report
        time.sleep(0.3)


def endpoint(*candidates: dict[str, Any], **traffic: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"name": "e", "model": "m@champion", "batching": {"max_wait_ms": 0}}
    return spec | ({"traffic": {"candidates": list(candidates), **traffic}} if candidates else {})


CANARY = {"steps": [20, 60], "bake_s": 3, "min_requests": 30, "p99_ms": 1000, "p99_ratio": None}
OVER = {TrafficPhase.PROMOTED, TrafficPhase.ROLLED_BACK, TrafficPhase.HOLDING}


def test_versions_share_and_change_without_a_failed_request() -> None:
    with temporary_platform() as platform:
        platform.lightmill("up")
        registry = open_platform(Settings(home=platform.home)).registry
        for hidden, seed, features in (([8], 1, "x"), ([8], 2, "x"), ([8], 3, "other"), ([SLOW] * 3, 4, "x")):
            publish(registry, hidden, seed, features)
        registry.set_alias(MODEL, "m", "champion", 1)
        with lightmill.connect(platform.url, platform.key) as client:
            client.endpoints.deploy(endpoint())
            a_good_canary_is_promoted(platform, client)
            a_canary_that_refuses_and_one_that_is_slow_are_rolled_back(platform, client)
            shadows_are_compared(platform, client)
            an_alias_flips(platform, client, registry)


def a_good_canary_is_promoted(platform: TestPlatform, client: Client) -> None:
    with load(platform, "e") as seen:
        client.endpoints.deploy(endpoint({"name": "next", "model": "m@2", "canary": CANARY}))
        running = until(lambda: client.endpoints.traffic("e"), {TrafficPhase.RUNNING, *OVER})
        assert running.phase is TrafficPhase.RUNNING, running
        shown = platform.lightmill("traffic", "e").out
        assert "canary" in shown and "step 1 of 2" in shown, shown
        report = until(lambda: client.endpoints.traffic("e"), OVER)
        assert report.phase is TrafficPhase.PROMOTED, report
    print("canary", seen.statuses, seen.versions, seen.problems[:3], [event.reason for event in report.events])
    assert seen.failed == 0 and seen.versions["1"] and seen.versions["2"]
    assert client.models.show("m").asset.aliases["champion"] == 2
    assert client.models.alias_history("m", "champion")[-1].target == 2


def a_canary_that_refuses_and_one_that_is_slow_are_rolled_back(platform: TestPlatform, client: Client) -> None:
    for version, limits, said in ((3, {}, "failed"), (4, {"p99_ms": 20}, "99th percentile")):
        with load(platform, "e") as seen:
            bad = {"name": f"bad-{version}", "model": f"m@{version}", "canary": CANARY | limits}
            client.endpoints.deploy(endpoint(bad))
            report = until(lambda: client.endpoints.traffic("e"), OVER)
            time.sleep(2)
            before = seen.versions[str(version)]
            time.sleep(2)
            assert seen.versions[str(version)] == before, "it still answers"
        print("bad", version, seen.statuses, seen.versions, seen.problems[:3], report.reason)
        assert seen.failed == 0
        assert report.phase is TrafficPhase.ROLLED_BACK and said in report.reason
        assert client.endpoints.show("e").version.seq == 2  # pyright: ignore[reportOptionalMemberAccess]


def shadows_are_compared(platform: TestPlatform, client: Client) -> None:
    shadow = {"name": "shade", "model": "m@1", "shadow": 1.0}
    same = {"name": "same", "model": "m@2", "shadow": 0.5}
    with load(platform, "e") as seen:
        client.endpoints.deploy(endpoint(shadow, same, differences={"part_s": 1}))
        end = time.monotonic() + 90
        found: list[Any] = []
        while not found or not all(row.shadows > 20 for row in client.endpoints.traffic("e").rows[1:]):
            assert time.monotonic() < end, client.endpoints.traffic("e")
            time.sleep(0.5)
            found = client.endpoints.shadows("e", limit=5)
        rows = {row.name: row for row in client.endpoints.traffic("e").rows}
    print("shadows", seen.statuses, rows["shade"], rows["same"], found[0])
    assert seen.failed == 0 and set(seen.versions) == {"2"}
    assert rows["shade"].differed > 0 and rows["same"].differed == 0
    assert {one.candidate for one in found} == {"shade"} and all(not one.values for one in found)
    assert found[0].stable_version == "m@2" and found[0].candidate_version == "m@1"
    assert "shade" in platform.lightmill("shadows", "e").out
    metrics = httpx.get(f"{platform.url}/api/v1/metrics", headers={"X-API-Key": platform.key}).text
    assert 'lightmill_traffic_shadows_total{endpoint="e"' in metrics


def an_alias_flips(platform: TestPlatform, client: Client, registry: Registry) -> None:
    client.endpoints.deploy(endpoint())
    started = time.monotonic()
    with load(platform, "e") as seen:
        for flip in range(FLIPS):
            registry.set_alias(MODEL, "m", "champion", 1 + flip % 2)
            time.sleep(0.7)
        registry.set_alias(MODEL, "m", "champion", 1)
        end = time.monotonic() + 120
        while (shown := client.endpoints.show("e")).version is None or shown.version.seq != 1 or shown.state != "ready":
            assert time.monotonic() < end, shown
            time.sleep(0.5)
    took = time.monotonic() - started
    print(f"{FLIPS} flips in {took:.0f} s:", seen.statuses, seen.versions, seen.problems[:3])
    assert seen.failed == 0 and sum(seen.versions.values()) > 500
