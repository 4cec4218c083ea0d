"""What an endpoint costs and does over its life: the platform's tax, a second replica, a cold start, a new version."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import httpx
import orjson

from benchmarks.figures import figure, note
from benchmarks.serving_cells import measure
from benchmarks.serving_ours import Endpoint, deploy, endpoint, publish, serving_platform
from benchmarks.serving_peers import node_environment
from benchmarks.serving_wire import inference, rows_of
from tests.platforms import BIN, ROOT, TestPlatform

ROUNDS = 5
TAX_GOAL, SCALE_GOAL = 1.15, 1.7
CLIENTS, PAUSE_S = 4, 0.002
BARE = Path(__file__).with_name("serving_bare.py")


def platform_tax() -> None:
    """CPU of a request to an endpoint over that to its service alone: no keys, limits, metrics, log or trace."""
    with serving_platform("mlp") as platform, tempfile.TemporaryDirectory() as folder, _bare(platform, "mlp") as bare:
        ours = endpoint(platform, "mlp")
        taxed, untaxed = [], []
        for turn in range(ROUNDS):
            for side in (ours, bare) if turn % 2 == 0 else (bare, ours):
                cell = measure(side, "mlp", Path(folder), clients=64)
                assert cell is not None
                (taxed if side is ours else untaxed).append(cell)
                note(f"  {side.name:10s} {cell.load.rps:8.0f} rps  cpu {cell.cpu_ms:.4f} ms")
    figure(
        "platform_tax",
        "ms/request",
        [cell.cpu_ms for cell in taxed],
        [cell.cpu_ms for cell in untaxed],
        goal=f"<= {TAX_GOAL:g}",
        holds=lambda value: value <= TAX_GOAL,
        clients=64,
        rps_ratio=round(sum(c.load.rps for c in taxed) / sum(c.load.rps for c in untaxed), 3),
    )


@contextmanager
def _bare(platform: TestPlatform, name: str) -> Iterator[Endpoint]:
    """Deploy an endpoint's service alone beside the endpoint."""
    process = subprocess.Popen(
        [BIN / "python", BARE, name],
        env=node_environment(platform),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    if not any(line.strip() == "ready" for line in process.stdout):
        raise SystemExit("the service alone does not start")
    bare = endpoint(platform, name)
    try:
        yield Endpoint(
            name="bare", url=bare.url, root=None, pauses=False, platform=platform, application="bare", headers={},
            prefix="/bare",
        )  # fmt: skip
    finally:
        process.stdin.close()
        process.wait(60)


def scale_out() -> None:
    """Requests a second of the encoder by two replicas of one thread over one; beside it what the processor allows."""
    one, two = [], []
    with serving_platform("encoder") as platform, tempfile.TemporaryDirectory() as folder:
        for speeds, count in ((one, 1), (two, 2)):
            deploy(platform, "encoder", replicas={"min": count, "max": count})
            _wait_for_replicas(platform, "encoder", count)
            for _ in range(ROUNDS):
                cell = measure(endpoint(platform, "encoder"), "encoder", Path(folder), clients=8)
                assert cell is not None
                speeds.append(cell.load.rps)
                note(f"  {count} replicas: {cell.load.rps:.1f} rps, cpu {cell.cpu_ms:.2f} ms")
    machine = _two_over_one()
    figure(
        "scale_out",
        "requests/s",
        two,
        one,
        goal=f">= {SCALE_GOAL:g}",
        holds=lambda value: value >= SCALE_GOAL,
        clients=8,
        two_processes_over_one=round(machine, 3),
    )


def _wait_for_replicas(platform: TestPlatform, name: str, count: int) -> None:
    headers = {"X-API-Key": platform.key}
    end = time.monotonic() + 180
    while time.monotonic() < end:
        found = httpx.get(f"{platform.url}/api/v1/endpoints/{name}", headers=headers, timeout=30).json()
        if found["state"] == "ready" and found["replicas"] == count:
            time.sleep(3)  # HAProxy hears of a replica a moment later
            return
        time.sleep(0.5)
    raise SystemExit(f"{name} has not come to {count} replicas")


FORWARDS = """
import time
from benchmarks.peers import networks
run, rows = networks.run_encoder(networks.text_encoder()), [[1] * networks.TOKENS]
for _ in range(20): run(rows)
input()
end, count = time.perf_counter() + 5, 0
while time.perf_counter() < end: run(rows); count += 1
print(count)
"""


def _two_over_one() -> float:
    """Return how much two processes compute over one, without any server: what this machine's cores give."""

    def counts(number: int) -> int:
        processes = [
            subprocess.Popen(
                [BIN / "python", "-c", FORWARDS],
                cwd=ROOT,
                env={"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(number)
        ]
        time.sleep(8)
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return sum(int(process.communicate()[0]) for process in processes)

    return counts(2) / counts(1)


def cold_start() -> None:
    """From `deploy` of a model of 102 MB to its first answer on a warm platform, and the steps of a replica's start."""
    seconds, steps = [], []
    with serving_platform() as platform:
        size = publish(platform, "large")[0]["bytes"]
        steps.append(_steps(platform))
        for _ in range(3):
            started = time.perf_counter()
            deploy(platform, "large")
            body = inference("mlp", "large")
            headers = {**body.headers, "X-API-Key": platform.key}
            answer = httpx.post(platform.url + body.path, content=body.body, headers=headers, timeout=60)
            assert answer.status_code == 200, answer.text
            seconds.append(time.perf_counter() - started)
            note(f"  deploy to first answer: {seconds[-1]:.2f} s")
            platform.lightmill("endpoints", "delete", "large")
            _wait_until_gone(platform, "large")
    figure("cold_start", "s", seconds, goal="<= 4 s plus loading", bytes=size, steps=steps[0])


def _wait_until_gone(platform: TestPlatform, name: str) -> None:
    headers = {"X-API-Key": platform.key}
    for _ in range(240):
        if httpx.get(f"{platform.url}/api/v1/endpoints/{name}", headers=headers, timeout=30).status_code == 404:
            return
        time.sleep(0.5)


STEPS = """
import json, time
at = {}
def mark(name, since): at[name] = round(time.perf_counter() - since, 3)
t = time.perf_counter()
from lightmill.records.references import AssetKind, parse_reference
from lightmill.settings import Settings
from lightmill.wiring import open_platform
from lightmill.serving.loading import load_model, warm_up
mark("import of torch and our rooms", t)
t = time.perf_counter()
platform = open_platform(Settings.read())
id = platform.registry.resolve(AssetKind.MODEL, parse_reference("large@champion"))
mark("opening of store and catalog", t)
t = time.perf_counter()
model = load_model(platform.location, id)
mark("verifying, decrypting and building the model", t)
t = time.perf_counter()
warm_up(model, 128)
mark("warming up", t)
print(json.dumps(at))
"""


def _steps(platform: TestPlatform) -> dict[str, float]:
    """Return the seconds of a replica's own work, done in a process of its own."""
    found: dict[str, float] = platform.run(
        BIN / "python", "-c", STEPS, PYTHONPATH=f"{ROOT}:{ROOT / 'platform'}", OMP_NUM_THREADS="1"
    ).json()
    note(f"  steps: {found}")
    return found


@dataclass(slots=True)
class Heard:
    """What clients of a changing endpoint were told: when each answer came, of which version, and what went wrong.

    `stumbled` are attempts that went wrong and were repeated, `failed` those requests that no attempt answered.
    """

    at_s: list[float] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stumbled: list[tuple[float, str]] = field(default_factory=list)

    @property
    def longest_gap_s(self) -> float:
        """The longest time without any answer."""
        times = sorted(self.at_s)
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)


@contextmanager
def asking(platform: TestPlatform, name: str, *, retries: int = 0, by_gateway: bool = False) -> Iterator[Heard]:
    """Ask an endpoint from a few clients at once, all the while; what fails is asked again `retries` times.

    Inference changes nothing, so that a request whose answer was lost may be repeated.
    """
    ask = inference("mlp", name)
    path, body = ask.path, ask.body
    if by_gateway:
        path, body = f"/v1/models/{name}:predict", orjson.dumps({"instances": rows_of("mlp").tolist()})
    headers = {**ask.headers, "X-API-Key": platform.key}
    heard, stop = Heard(), threading.Event()

    def once(http: httpx.Client) -> str:
        """Ask once; return what went wrong, empty if nothing did."""
        try:
            answer = http.post(path, content=body)
        except httpx.HTTPError as exc:
            return type(exc).__name__
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.text[:80]}"
        heard.at_s.append(time.perf_counter())
        heard.versions.append(answer.json().get("model_version", ""))
        return ""

    def client() -> None:
        with httpx.Client(base_url=platform.url, headers=headers, timeout=30) as http:
            while not stop.is_set():
                problem = once(http)
                for turn in range(retries):
                    if not problem:
                        break
                    heard.stumbled.append((time.perf_counter(), problem))
                    time.sleep(min(1.0, 0.05 * 2**turn))
                    problem = once(http)
                if problem:
                    heard.failed.append(problem)
                time.sleep(PAUSE_S)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield heard
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def rollout_gap() -> None:
    """The longest time without an answer while another version rolls in under load, and how many requests failed."""
    gaps, failed, asked = [], 0, 0
    with serving_platform("mlp") as platform:
        for _ in range(3):
            version = str(publish(platform, "mlp")[0]["version"])
            with asking(platform, "mlp") as heard:
                end = time.monotonic() + 180
                while version not in heard.versions[-1:] and time.monotonic() < end:
                    time.sleep(0.2)
                time.sleep(3)
            gaps.append(heard.longest_gap_s)
            failed += len(heard.failed)
            asked += len(heard.at_s)
            note(f"  version {version}: longest gap {gaps[-1]:.2f} s, {len(heard.failed)} failed of {len(heard.at_s)}")
            if heard.failed:
                note(f"    such as {heard.failed[0]}")
    figure(
        "rollout_gap", "s", gaps, goal="no request fails", holds=lambda _: failed == 0, requests=asked, failed=failed
    )
