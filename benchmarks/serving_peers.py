"""The peers of the serving benchmarks: their environments, made on demand, and their processes.

Environments stand below `~/.cache/lightmill-bench`, or where LIGHTMILL_BENCH_CACHE says. A peer that cannot be
installed is left out, which is said. TorchServe needs a Java besides.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.figures import note
from benchmarks.serving_wire import Ask, inference, plain
from tests.platforms import BIN, ROOT, TestPlatform, free_ports

START_S = 120.0
HERE = ROOT / "benchmarks" / "peers"
CACHE = Path(os.environ.get("LIGHTMILL_BENCH_CACHE", Path.home() / ".cache" / "lightmill-bench"))
TORCH = ("torch==2.13.0", "numpy")
PACKAGES: dict[str, tuple[str, ...]] = {
    "litserve": (*TORCH, "litserve", "orjson", "uvloop", "httptools"),
    "bentoml": (*TORCH, "bentoml", "orjson"),
    "mlserver": (*TORCH, "mlserver"),
    "kserve": (*TORCH, "kserve", "orjson"),
    "mosec": (*TORCH, "mosec", "orjson"),
    "torchserve": (*TORCH, "torchserve", "torch-model-archiver", "pyyaml", "psutil", "setuptools<80"),
}
CONTROL, RAY = "by_hand", "ray_serve"
PEERS = (CONTROL, "litserve", "bentoml", "mlserver", "kserve", "mosec", "torchserve", RAY)
"""`by_hand` and `ray_serve` run in our own environment."""
WITHOUT = {
    "litserve": ("means_raw",),
    "bentoml": ("means_raw",),
    "mlserver": ("means_raw",),
    "kserve": ("mlp_batch",),
}
"""What a peer does not offer, or not in a way that its documentation shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that runs. `pids` are its processes, or empty where they are found by `root` and its children."""

    name: str
    url: str
    root: int | None
    prefix: str = ""
    pauses: bool = True

    def ask(self, workload: str) -> Ask | None:
        """Return a workload's request in this server's form; None if it does not offer it."""
        if workload in WITHOUT.get(self.name, ()):
            return None
        if self.name in ("mlserver", "kserve"):
            model = "means" if workload == "means_raw" else workload
            return inference(workload, model, integer_echo=True)
        found = plain(workload)
        path = f"/predictions{found.path}" if self.name == "torchserve" else self.prefix + found.path
        return Ask(path=path, body=found.body, headers=found.headers)

    def processes(self) -> list[psutil.Process]:
        """Return the server's process and its descendants."""
        with suppress(psutil.Error):
            process = psutil.Process(self.root)
            return [process, *process.children(recursive=True)]
        return []

    def pause(self, paused: bool) -> None:
        """Stop the processes until they are let go on, so that a server that is not asked costs nobody anything."""
        for process in self.processes() if self.pauses else []:
            with suppress(psutil.Error):
                process.suspend() if paused else process.resume()


def installed(peer: str) -> Path | None:
    """Return the folder of a peer's programs, made if need be; None if it cannot be."""
    folder = CACHE / peer
    if peer == "torchserve" and shutil.which("java") is None:
        note("  torchserve is left out: it needs Java (apt-get install default-jre-headless)")
        return None
    if not (folder / ".installed").exists():
        note(f"  installing {peer} ...")
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = [sys.executable, "-m", "venv", str(folder)]
        install = [str(folder / "bin" / "pip"), "install", "--quiet", "--no-compile", *PACKAGES[peer]]
        for command in (made, install):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                note(f"  {peer} is left out: {done.stderr.strip().splitlines()[-1:]}")
                return None
        (folder / ".installed").write_text("\n".join(PACKAGES[peer]))
    return folder / "bin"


@contextmanager
def peers(names: tuple[str, ...], platform: TestPlatform, folder: Path) -> Iterator[list[Server]]:
    """Start peers, each paused once it has answered; those that do not start are left out. Ends what it started."""
    started: list[subprocess.Popen[str]] = []
    servers: list[Server] = []
    try:
        begun = [_start(name, platform, folder / name, started) for name in names]
        for server, process in [each for each in begun if each]:
            if _answers(server, process):
                server.pause(True)
                servers.append(server)
            else:
                log = folder / server.name / "log"
                note(
                    f"  {server.name} is left out: it does not answer: {log.read_text()[-600:] if log.exists() else ''}"
                )
        yield servers
    finally:
        for server in servers:
            server.pause(False)
        for process in started:
            _end(process)


def _start(
    name: str, platform: TestPlatform, folder: Path, started: list[subprocess.Popen[str]]
) -> tuple[Server, subprocess.Popen[str]] | None:
    """Start a peer without waiting for it; None if it cannot be installed."""
    folder.mkdir(parents=True)
    port = free_ports(1)[0]
    if name == RAY:
        return _ray(platform, started)
    programs = BIN if name == CONTROL else installed(name)
    if programs is None:
        return None
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}",
        "BENTOML_HOME": str(folder),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    command, more = _command(name, programs, port, folder)
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [str(word) for word in command],
        env=environment | more,
        cwd=folder,
        stdout=log,
        stderr=log,
        start_new_session=True,
        text=True,
    )
    started.append(process)
    return Server(name=name, url=f"http://127.0.0.1:{port}", root=process.pid), process


def _command(name: str, programs: Path, port: int, folder: Path) -> tuple[list[str | Path | int], dict[str, str]]:
    """Return how a peer is started, and what its environment needs."""
    python = programs / "python"
    if name == "bentoml":
        service = "benchmarks.peers.bentoml_server:Networks"
        return [programs / "bentoml", "serve", service, "-p", port, "--host", "127.0.0.1"], {}
    if name == "mlserver":
        _mlserver_models(folder)
        grpc, metrics = free_ports(2)
        return [programs / "mlserver", "start", folder], {
            "MLSERVER_HTTP_PORT": str(port),
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_GRPC_PORT": str(grpc),
            "MLSERVER_METRICS_PORT": str(metrics),
            "MLSERVER_PARALLEL_WORKERS": "0",
            "MLSERVER_DEBUG": "false",
        }
    if name == "mosec":
        script = HERE / "mosec_server.py"
        return [python, script, "--port", port, "--address", "127.0.0.1", "--max-body-size", 20 << 20], {}
    if name == "torchserve":
        return _torchserve(programs, port, folder)
    return [python, HERE / f"{name}_server.py", port], {}


def _mlserver_models(folder: Path) -> None:
    for model in ("echo", "mlp", "mlp_batch", "encoder", "means"):
        settings: dict[str, object] = {"name": model, "implementation": "benchmarks.peers.mlserver_runtime.Network"}
        if model == "mlp_batch":
            settings |= {"max_batch_size": 32, "max_batch_time": 0.003}
        (folder / model).mkdir()
        (folder / model / "model-settings.json").write_text(json.dumps(settings))


def _torchserve(programs: Path, port: int, folder: Path) -> tuple[list[str | Path | int], dict[str, str]]:
    store = folder / "models"
    store.mkdir()
    models: dict[str, object] = {}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    for model in ("echo", "mlp", "mlp_batch", "encoder", "means", "means_raw"):
        archive = [programs / "torch-model-archiver", "--model-name", model, "--version", "1.0"]
        archive += ["--handler", HERE / "torchserve_handler.py", "--export-path", store]
        words = [str(word) for word in archive]
        subprocess.run(words, check=True, capture_output=True, env=os.environ | {"PATH": path})
        models[model] = {
            "1.0": {
                "defaultVersion": True, "marName": f"{model}.mar", "minWorkers": 1, "maxWorkers": 1,
                "batchSize": 32 if model == "mlp_batch" else 1, "maxBatchDelay": 3 if model == "mlp_batch" else 0,
                "responseTimeout": 60,
            }
        }  # fmt: skip
    management, metrics, grpc, grpc_management = free_ports(4)
    (folder / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{port}\nmanagement_address=http://127.0.0.1:{management}\n"
        f"metrics_address=http://127.0.0.1:{metrics}\ngrpc_inference_address=127.0.0.1\n"
        f"grpc_management_address=127.0.0.1\ngrpc_inference_port={grpc}\ngrpc_management_port={grpc_management}\n"
        "disable_token_authorization=true\nenable_envvars_config=false\nmax_request_size=65535000\n"
        f"job_queue_size=1000\nmetrics_mode=log\nmodel_store={store}\nload_models=all\nmodels={json.dumps(models)}\n"
    )
    command: list[str | Path | int] = [programs / "torchserve", "--foreground", "--ncs", "--disable-token-auth"]
    command += ["--model-store", store, "--ts-config", folder / "config.properties"]
    return command, {"PATH": path, "TEMP": str(folder)}


def _ray(platform: TestPlatform, started: list[subprocess.Popen[str]]) -> tuple[Server, subprocess.Popen[str]] | None:
    """Deploy plain Ray Serve beside the platform's applications, on its Ray."""
    process = subprocess.Popen(
        [BIN / "python", HERE / "ray_server.py"],
        env=node_environment(platform),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started.append(process)
    assert process.stdout is not None
    if not any(line.strip() == "ready" for line in process.stdout):
        note(f"  {RAY} is left out: it does not start")
        return None
    server = RayServer(name=RAY, url=platform.url, root=None, prefix="/by-hand", pauses=False, platform=platform)
    return server, process


def node_environment(platform: TestPlatform) -> dict[str, str]:
    """Return the environment in which a driver joins the platform's Ray, and finds the benchmarks."""
    exports = platform.lightmill("environment").out
    node = dict(line.removeprefix("export ").split("=", 1) for line in exports.splitlines() if "=" in line)
    return {
        **platform.environment,
        **{name: value.strip("'") for name, value in node.items()},
        "RAY_ADDRESS": f"127.0.0.1:{platform.environment['LIGHTMILL_RAY_PORT']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class RayServer(Server):
    """An application of the platform's Ray: HAProxy and the replica, which `application` tells from others."""

    platform: TestPlatform
    application: str = "by-hand"

    def processes(self) -> list[psutil.Process]:
        """Return HAProxy and the replicas of this application."""
        return replicas(self.platform, self.application)


def replicas(platform: TestPlatform, application: str) -> list[psutil.Process]:
    """Return HAProxy and an application's replicas; Ray names a replica's process after both."""
    title = f"ServeReplica:{application}:"
    found = []
    for process in platform.processes():
        with suppress(psutil.Error):
            if process.name() == "haproxy" or title in " ".join(process.cmdline()):
                found.append(process)
    return found


def _answers(server: Server, process: subprocess.Popen[str]) -> bool:
    """Wait until every workload of a server is answered."""
    end = time.monotonic() + START_S
    waiting = [ask for ask in map(server.ask, ("mlp", "encoder", "means")) if ask]
    while waiting and time.monotonic() < end and process.poll() is None:
        try:
            answer = httpx.post(
                server.url + waiting[0].path, content=waiting[0].body, headers=dict(waiting[0].headers), timeout=30
            )
            if answer.status_code == 200:
                waiting.pop(0)
                continue
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    return not waiting


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and its descendants."""
    with suppress(psutil.Error):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        if process.stdin:
            process.stdin.close()
        else:
            process.terminate()
        _, left = psutil.wait_procs(family, timeout=10)
        for each in left:
            with suppress(psutil.Error):
                each.kill()
    process.wait()
