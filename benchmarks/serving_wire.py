"""What is asked of serving: the requests of each workload in each side's own form, and wrk, which sends them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SIDE, TOKENS = 512, 64
WORKLOADS = ("echo", "mlp", "mlp_batch", "encoder", "means", "means_raw")
_SCRIPT = Path(__file__).with_name("wrk.lua")
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request; `path` begins with a slash."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What came of a load: counts, seconds, latencies in milliseconds. `failed` counts all but 2xx and 3xx."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int

    @property
    def rps(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def rows_of(workload: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """Return the rows that a workload asks about, the same for every side."""
    random = np.random.default_rng(0)
    if workload.startswith("mlp"):
        return np.round(random.random((1, 64)), 4).astype(np.float32)
    if workload == "encoder":
        return random.integers(0, 1000, (1, TOKENS))
    if workload.startswith("means"):
        return random.random((SIDE, SIDE)).astype(np.float32)
    return np.ones((1, 1), dtype=np.float32)


def plain(workload: str) -> Ask:
    """Return the request to a server written by hand: `{"x": rows}`, or the bytes of a tensor."""
    rows = rows_of(workload)
    if workload == "means_raw":
        return Ask(path="/means_raw", body=rows.tobytes(), headers={"Content-Type": "application/octet-stream"})
    body = {"x": 1} if workload == "echo" else {"x": _short(rows)}
    return Ask(path=f"/{workload}", body=_dump(body), headers=_JSON)


def inference(workload: str, model: str, *, name: str = "x", integer_echo: bool = False) -> Ask:
    """Return the request by the Open Inference Protocol; `means_raw` by its binary extension."""
    rows = rows_of(workload)
    datatype = "INT64" if rows.dtype.kind == "i" else "FP32"
    if workload == "echo" and integer_echo:
        rows, datatype = np.ones(1, dtype=np.int32), "INT32"
    tensor: dict[str, object] = {"name": name, "shape": list(rows.shape), "datatype": datatype}
    path = f"/v2/models/{model}/infer"
    if workload == "means_raw":
        head = _dump({"inputs": [tensor | {"parameters": {"binary_data_size": rows.nbytes}}]})
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        return Ask(path=path, body=head + rows.tobytes(), headers=headers)
    tensor["data"] = [value for row in np.atleast_2d(rows) for value in _short(row)]
    return Ask(path=path, body=_dump({"inputs": [tensor]}), headers=_JSON)


def wrk(url: str, ask: Ask, folder: Path, *, clients: int, seconds: float) -> Load:
    """Send a request again and again over kept connections, from one thread.

    Raises:
        SystemExit: wrk is not installed, or an answer was none.
    """
    program = shutil.which("wrk")
    if program is None:
        raise SystemExit("wrk is missing; install it (apt-get install wrk).")
    body = folder / "body"
    body.write_bytes(ask.body)
    headers = "\n".join(f"{name}: {value}" for name, value in ask.headers.items())
    done = subprocess.run(
        [
            program, "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", str(_SCRIPT),
            url + ask.path,
        ],
        env=os.environ | {"BENCH_BODY": str(body), "BENCH_HEADERS": headers},
        capture_output=True, text=True, timeout=seconds + 90, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("SUMMARY")]
    if not lines:
        raise SystemExit(f"wrk says nothing of {url + ask.path}: {done.stdout[-300:]} {done.stderr[-300:]}")
    found = Load(**json.loads(lines[0].removeprefix("SUMMARY")))
    if found.failed or not found.requests:
        raise SystemExit(f"{found.failed} of {found.requests} requests to {url + ask.path} failed")
    return found


def _short(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> list[object]:
    """Return nested lists of the shortest numbers that are these float32."""
    if array.dtype.kind == "i":
        return array.tolist()
    if array.ndim > 1:
        return [_short(each) for each in array]
    return [float(str(value)) for value in array]


def _dump(found: object) -> bytes:
    return json.dumps(found, separators=(",", ":")).encode()
