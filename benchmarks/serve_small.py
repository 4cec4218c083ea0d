"""Requests a second of one endpoint against FastAPI, uvicorn and torch put together by hand.

Same weights, same JSON, one process of one thread each, eight clients that send one row at a time over
connections kept open, ours and the peer's in turn. CPU time a request counts every process of the server.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from benchmarks.figures import figure, note
from benchmarks.load import drive
from tests.platforms import BIN, ROOT, TestPlatform, free_ports, temporary_platform

RUNS = 5
SECONDS = 4.0
CLIENTS = 8
BY_HAND = Path(__file__).with_name("fastapi_by_hand.py")


def main() -> None:
    """Take turns: ours, by hand, ours, by hand ..."""
    with temporary_platform() as platform, tempfile.TemporaryDirectory() as folder:
        found = platform.lightmill("demo", "examples/digits").json()
        weights = Path(folder) / "model.json"
        weights.write_text(json.dumps(_export(platform)))
        body = json.dumps(
            {"inputs": [{"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": _row(platform)}]}
        ).encode()
        with _server(platform, weights) as peer_url:
            _same_answers(found["url"], peer_url, platform.key, body)
            ours, peer, our_cpu, peer_cpu = [], [], [], []
            for run in range(RUNS):
                speed, cpu = _measure(found["url"], platform.key, body, platform)
                ours.append(speed), our_cpu.append(cpu)
                speed, cpu = _measure(peer_url, platform.key, body, None)
                peer.append(speed), peer_cpu.append(cpu)
                note(f"  run {run + 1}: ours {ours[-1]:.0f}, by hand {peer[-1]:.0f} requests a second")
    figure("serve_small", "requests/s", ours, peer, clients=CLIENTS)
    figure("serve_small_cpu", "ms/request", our_cpu, peer_cpu, clients=CLIENTS)


def _export(platform: TestPlatform) -> dict[str, object]:
    """Return weights and preparation of the champion as JSON, for the server by hand."""
    code = """
import json
from lightmill.settings import Settings
from lightmill.wiring import open_platform
from lightmill.records.references import AssetKind, parse_reference
from lightmill.registry.tensors import load_tensors
registry = open_platform(Settings.read()).registry
version = registry.open(registry.resolve(AssetKind.MODEL, parse_reference("digits@champion")))
card = version.manifest.model
print(json.dumps({
    "weights": {name: value.tolist() for name, value in load_tensors(version).items()},
    "arguments": {k: v for k, v in card.architecture.arguments.items() if k not in ("inputs", "classes")},
    "mean": card.preprocessing.steps[0].mean, "scale": card.preprocessing.steps[0].scale,
}))
"""
    return platform.run(BIN / "python", "-c", code).json()


def _row(platform: TestPlatform) -> list[float]:
    row = json.loads(platform.lightmill("datasets", "rows", "digits", "--limit", "1").out)
    return [row[f"p{n:02d}"] for n in range(64)]


@contextmanager
def _server(platform: TestPlatform, weights: Path) -> Iterator[str]:
    port = free_ports(1)[0]
    process = subprocess.Popen(
        [BIN / "python", BY_HAND, weights, str(port)],
        env=platform.environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    url = f"http://127.0.0.1:{port}/v2/models/digits"
    try:
        for _ in range(300):
            try:
                httpx.get(url + "/ready")
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def _same_answers(ours: str, peer: str, key: str, body: bytes) -> None:
    """Both must do the same work."""
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    left = httpx.post(ours + "/infer", content=body, headers=headers).json()["outputs"][0]["data"]
    right = httpx.post(peer + "/infer", content=body, headers=headers).json()["outputs"][0]["data"]
    if max(abs(a - b) for a, b in zip(left, right, strict=True)) > 1e-4:
        raise SystemExit(f"the servers differ: {left} and {right}")


def _measure(url: str, key: str, body: bytes, platform: TestPlatform | None) -> tuple[float, float]:
    """Return requests a second, and the server's CPU milliseconds a request."""
    servers = _serving(platform) if platform else _by_hand()
    before = sum(sum(process.cpu_times()[:2]) for process in servers)
    done, elapsed = drive(url + "/infer", key, body, clients=CLIENTS, seconds=SECONDS)
    cpu = sum(sum(process.cpu_times()[:2]) for process in servers) - before
    return done / elapsed, cpu / done * 1000


def _serving(platform: TestPlatform) -> list[psutil.Process]:
    """HAProxy and the replicas of endpoints; Ray names a replica's process after its class."""
    return [
        p for p in platform.processes() if p.name() == "haproxy" or "ServeReplica:endpoint" in " ".join(p.cmdline())
    ]


def _by_hand() -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if any("fastapi_by_hand" in word for word in p.cmdline())]
