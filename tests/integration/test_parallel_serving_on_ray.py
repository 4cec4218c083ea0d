"""Divided models, divided requests and graphs on a real platform."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch
import yaml

from lightmill.records.signature import Architecture
from lightmill.settings import Settings
from lightmill.wiring import open_platform
from tests.platforms import TestPlatform, temporary_platform
from tests.unit.serving.parallel.gang import published

pytestmark = [pytest.mark.integration, pytest.mark.slow]
TOLERANCE = 1e-5
SMALL = {"replicas": {"min": 1, "max": 1}, "resources": {"cpus": 0.1}}
DECODER = Architecture(
    name="decoder",
    arguments={"vocabulary": 96, "context": 32, "width": 64, "layers": 4, "heads": 4},
)
FEATURES = Architecture(name="mlp", arguments={"inputs": 8, "hidden": [16], "classes": 3})
STORES, STORE_BYTES = 6, 780
TOKENS = np.random.default_rng(3).integers(0, 96, (6, 11))
PATIENCE_S = 90.0


class Served:
    """A platform with a decoder, and the decoder itself."""

    def __init__(self, platform: TestPlatform, folder: Path) -> None:
        self.platform = platform
        self.folder = folder
        self.http = httpx.Client(
            base_url=platform.url, headers={"x-api-key": platform.key}, timeout=30, trust_env=False
        )
        registry = open_platform(Settings(home=platform.home)).registry
        _, self.decoder = published(registry, DECODER, "decoder")
        _, self.features = published(registry, FEATURES, "features")
        self.stores = [published(registry, FEATURES, f"store-{number}", number)[1] for number in range(STORES)]

    def deploy(self, name: str, check: bool = True, **more: Any) -> Any:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, **more}))
        return self.platform.lightmill("deploy", path, "--json", check=check)

    def infer(self, endpoint: str, name: str, array: Any, datatype: str, **more: str) -> httpx.Response:
        tensor = {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}
        return self.http.post(f"/v2/models/{endpoint}/infer", json={"inputs": [tensor]}, headers=more)

    def logits(self, endpoint: str) -> np.ndarray:
        return outputs_of(self.infer(endpoint, "tokens", TOKENS, "INT64"))["logits"]


def outputs_of(answer: httpx.Response) -> dict[str, np.ndarray]:
    assert answer.status_code == 200, answer.text
    return {one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in answer.json()["outputs"]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with temporary_platform() as platform:
        platform.lightmill("up")
        yield Served(platform, tmp_path_factory.mktemp("specs"))


def ranks_of(platform: TestPlatform) -> set[int]:
    found = set()
    for process in platform.processes():
        try:
            if "RankActor" in " ".join(process.cmdline()):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


def test_a_model_that_cannot_be_divided_so_is_refused_before_it_is_deployed(served: Served) -> None:
    refused = served.deploy("odd", check=False, model="decoder@1", parallel={"kind": "tensor", "ranks": 3})
    assert refused.code == 2 and "parallel.ranks is 3" in refused.out, refused.out
    refused = served.deploy("odd", check=False, model="decoder@1", parallel={"kind": "pipeline", "ranks": 5})
    assert refused.code == 2 and "use at most 4 ranks" in refused.out, refused.out
    assert "odd" not in served.platform.lightmill("endpoints", "list", "--json").out


def test_ranks_answer_as_the_whole_model_and_a_killed_one_takes_its_replica_along(served: Served) -> None:
    served.deploy("pipe", model="decoder@1", parallel={"kind": "pipeline", "ranks": 2}, **SMALL)
    first = ranks_of(served.platform)
    served.deploy("tens", model="decoder@1", parallel={"kind": "tensor", "ranks": 2}, **SMALL)
    second = ranks_of(served.platform) - first
    assert len(first) == len(second) == 2
    shown = served.platform.lightmill("endpoints", "show", "tens").out
    assert "tensor over 2 ranks" in shown
    with torch.no_grad():
        wanted = served.decoder(torch.from_numpy(TOKENS)).numpy()
    for name in ("pipe", "tens"):
        np.testing.assert_allclose(served.logits(name), wanted, atol=TOLERANCE, rtol=TOLERANCE)

    told = re.findall(r"rank \d read (\d+) of the model's (\d+) bytes", "\n".join(logs_of(served.platform)))
    print("bytes read by ranks, of the model's:", told)
    assert len(told) == 4 and all(int(read) < int(whole) for read, whole in told)

    for name, before in (("tens", second), ("pipe", first)):
        statuses: list[int] = []
        ended = threading.Event()

        def ask(name: str = name, statuses: list[int] = statuses, ended: threading.Event = ended) -> None:
            while not ended.is_set():
                try:
                    answer = served.infer(name, "tokens", TOKENS, "INT64")
                except httpx.HTTPError:
                    statuses.append(0)
                    continue
                statuses.append(answer.status_code)
                if answer.status_code == 200:  # a half-dead group would answer something else
                    np.testing.assert_allclose(outputs_of(answer)["logits"], wanted, atol=TOLERANCE, rtol=TOLERANCE)
                time.sleep(0.05)

        client = threading.Thread(target=ask)
        client.start()
        time.sleep(1)
        others = ranks_of(served.platform) - before
        killed_at = time.monotonic()
        psutil.Process(min(before)).kill()
        while True:
            assert time.monotonic() - killed_at < PATIENCE_S, statuses[-20:]
            left = ranks_of(served.platform)
            if not left & before and len(left - others) == 2 and statuses[-3:] == [200] * 3:
                break
            time.sleep(0.2)
        took_s = time.monotonic() - killed_at
        ended.set()
        client.join()
        failed = [status for status in statuses if status != 200]
        print(f"{name}: {len(statuses)} requests, {len(failed)} failed {sorted(set(failed))}, whole in {took_s:.1f} s")
        assert failed and set(failed) <= {0, 500, 502, 503, 504}
        assert ranks_of(served.platform) & others == others
    served.platform.lightmill("endpoints", "delete", "pipe")
    served.platform.lightmill("endpoints", "delete", "tens")


def test_a_rank_that_hangs_is_found_by_the_next_batch(served: Served) -> None:
    served.deploy("tens", model="decoder@1", parallel={"kind": "tensor", "ranks": 2, "timeout_s": 4}, **SMALL)
    before = ranks_of(served.platform)
    psutil.Process(min(before)).suspend()
    began = time.monotonic()
    answer = served.infer("tens", "tokens", TOKENS, "INT64")
    took_s = time.monotonic() - began
    assert answer.status_code == 503 and "starts anew" in answer.text and 3 < took_s < 20, (answer.text, took_s)
    while served.infer("tens", "tokens", TOKENS, "INT64").status_code != 200 or ranks_of(served.platform) & before:
        assert time.monotonic() - began < PATIENCE_S, ranks_of(served.platform)
        time.sleep(0.5)
    print(f"a rank hung: refused after {took_s:.1f} s, whole in {time.monotonic() - began:.1f} s")
    served.platform.lightmill("endpoints", "delete", "tens")


def test_a_large_request_is_answered_by_all_replicas_in_order(served: Served) -> None:
    served.deploy(
        "wide", model="features@1", split={"rows": 50}, replicas={"min": 2, "max": 2}, resources={"cpus": 0.1}
    )
    rows = np.random.default_rng(4).normal(size=(1003, 8)).astype(np.float32)
    with torch.no_grad():
        wanted = served.features(torch.from_numpy(rows)).softmax(dim=1).numpy()
    found = outputs_of(served.infer("wide", "x", rows, "FP32"))
    np.testing.assert_allclose(found["probabilities"], wanted, atol=TOLERANCE)
    np.testing.assert_array_equal(found["label"], wanted.argmax(axis=1))


def wait_for(served: Served, name: str, state: str) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE_S
    while True:
        found = served.platform.lightmill("endpoints", "show", name, "--json").json()
        if found["state"] == state:
            return found
        assert time.monotonic() < end, found
        time.sleep(0.5)


def test_a_graph_answers_as_an_endpoint_of_its_own(served: Served) -> None:
    for name in ("one", "two"):
        served.deploy(name, model="features@1", **SMALL)
    cases = {"kind": "switch", "field": "lang", "cases": {"de": "one", "fr": "two"}}
    served.deploy("jury", graph={"kind": "parallel", "join": "mean", "branches": ["one", cases]})
    found = wait_for(served, "jury", "ready")
    assert found["replicas"] == 0 and found["version"] is None
    assert "graph of one, two" in served.platform.lightmill("endpoints", "show", "jury").out
    rows = np.random.default_rng(6).normal(size=(5, 8)).astype(np.float32)
    lang = ["fr", "de", "de", "fr", "fr"]
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [5, 8], "data": rows.ravel().tolist()},
        {"name": "lang", "datatype": "BYTES", "shape": [5], "data": lang},
    ]
    answer = served.http.post("/v2/models/jury/infer", json={"inputs": inputs})
    with torch.no_grad():
        wanted = served.features(torch.from_numpy(rows)).softmax(dim=1).numpy()
    np.testing.assert_allclose(outputs_of(answer)["probabilities"], wanted, atol=TOLERANCE)
    described = served.http.get("/v2/models/jury").json()
    assert [one["name"] for one in described["inputs"]] == ["x", "lang"]
    inputs[1]["data"] = ["it", *lang[1:]]
    refused = served.http.post("/v2/models/jury/infer", json={"inputs": inputs})
    assert refused.status_code == 400 and "'it', for which the graph has no case" in refused.text

    kept = served.platform.lightmill("endpoints", "delete", "one", check=False)
    assert kept.code == 4 and "part of graph 'jury'" in kept.err + kept.out
    cycle = served.deploy("jury", check=False, graph={"kind": "sequence", "steps": ["one", "jury"]})
    assert cycle.code == 2 and "comes back to itself: jury -> jury" in cycle.out, cycle.out
    served.platform.lightmill("endpoints", "delete", "jury")


def test_many_models_share_the_replicas_of_one_endpoint(served: Served) -> None:
    models = {"names": ["store-*"], "alias": "latest", "memory_mb": 3 * STORE_BYTES / 1e6}
    served.deploy("stores", model="features@1", models=models, replicas={"min": 2, "max": 2}, resources={"cpus": 0.1})
    rows = np.random.default_rng(7).normal(size=(4, 8)).astype(np.float32)

    def check(number: int) -> None:
        found = outputs_of(served.infer("stores", "x", rows, "FP32", **{"x-model": f"store-{number}"}))
        with torch.no_grad():
            wanted = served.stores[number](torch.from_numpy(rows)).softmax(dim=1).numpy()
        np.testing.assert_allclose(found["probabilities"], wanted, atol=TOLERANCE)

    for _ in range(3):
        for number in range(STORES):
            check(number)
    time.sleep(3)  # routers hear of what is held
    before = loads_of(served.platform)
    for _ in range(20):
        check(STORES - 1)
    after = loads_of(served.platform)
    print(f"{before} loads for 18 requests to 6 models in turn, {after - before} for 20 to one of them")
    assert before >= STORES and after - before <= 1
    refused = served.infer("stores", "x", rows, "FP32", **{"x-model": "features"})
    assert refused.status_code == 404 and "it serves store-*" in refused.text


def loads_of(platform: TestPlatform) -> int:
    """Return how many loads the replicas' logs tell of."""
    return sum(text.count("loaded model store-") for text in logs_of(platform))


def logs_of(platform: TestPlatform) -> list[str]:
    return [path.read_text(errors="replace") for path in platform.sessions.rglob("worker-*.err") if path.is_file()]
