"""Starts the platform on this machine: prepare, Ray, control application. Safe to repeat."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

import lightmill
from lightmill.errors import ConflictError, UnavailableError, error_named
from lightmill.launch.down import end_processes
from lightmill.launch.haproxy import write_haproxy
from lightmill.launch.state import (
    MARK_VARIABLE,
    PlatformState,
    command_of,
    platform_processes,
    ray_folder,
    read_state,
    write_state,
)
from lightmill.records.base import now_iso
from lightmill.settings import Settings
from lightmill.spilling import node_spill_folder

RAY_START_S = 180
CONTROL_START_S = 240
ANSWER_S = 60.0
KEPT_SESSIONS = 3
RAY_NODE_PROGRAMS = {"gcs_server", "raylet"}
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A running platform; `changed` is false if it was up already."""

    state: PlatformState
    changed: bool


def up(settings: Settings, say: Say, *, ray_address: str | None = None) -> Joined:
    """Bring the platform up: on a Ray of its own, or on the running Ray at `ray_address`.

    Raises:
        ConflictError: A port is in use by something else.
        UnavailableError: A folder cannot be written, or Ray or the control application does not start.
        IntegrityError: Key ring, store and catalog do not belong together.
    """
    with _only_one(settings):
        known = read_state(settings)
        if known and answers(settings, known):
            say("The platform is up already.")
            return Joined(state=known, changed=False)
        if known:
            say("Cleaning up after a platform that ended badly.")
            end_processes(known)
        return Joined(state=_start(settings, say, ray_address), changed=True)


def answers(settings: Settings, state: PlatformState) -> bool:
    """Whether the platform's processes live and its control API answers."""
    if state.owns_ray and not _ray_lives(state):
        return False
    end = time.monotonic() + (ANSWER_S if state.ready else 0.0)  # alive but busy is not dead
    while True:
        if _live(settings):
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.5)


def _ray_lives(state: PlatformState) -> bool:
    """Whether the two processes that make a Ray node are there; without them HAProxy answers on for a while."""
    programs = {Path(found[0]).name for found in map(command_of, platform_processes(state)) if found}
    return programs >= RAY_NODE_PROGRAMS


def _live(settings: Settings) -> bool:
    try:
        answer = httpx.get(
            f"{settings.local_url}/v2/health/live",
            timeout=5.0,
            trust_env=False,
            verify=settings.trust(settings.local_url),
        )
        return answer.json() == {"live": True}
    except (httpx.HTTPError, ValueError):
        return False


def _start(settings: Settings, say: Say, ray_address: str | None) -> PlatformState:
    owns_ray = ray_address is None
    _check_ports(settings, owns_ray=owns_ray)
    state = PlatformState(
        mark=secrets.token_hex(8),
        url=settings.base_url,
        dashboard_url=f"http://{settings.host}:{settings.dashboard_port}",
        ray_address=ray_address or f"{settings.host}:{settings.ray_port}",
        ray_folder=str(ray_folder(settings)),
        owns_ray=owns_ray,
        started=now_iso(),
    )
    environment = {**os.environ, **settings.node_environment(), MARK_VARIABLE: state.mark}
    # Ray's processes look for the cluster in their environment and then in a file that any other Ray here has written.
    environment["RAY_ADDRESS"] = state.ray_address
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    if settings.catalog:
        environment["LIGHTMILL_CATALOG"] = settings.catalog
    say(f"Preparing key ring, store and catalog in {settings.home} ...")
    _run([sys.executable, "-m", "lightmill.wiring"], environment, RAY_START_S, "the preparation")
    from lightmill.launch.tls import write_certificate  # cryptography takes long to load, and few commands need it

    certificate = write_certificate(settings)
    if certificate:
        say(
            f"HTTPS with the certificate {certificate.path}, good until {certificate.expires:%Y-%m-%d}; "
            f"SHA-256 {certificate.fingerprint}"
        )
    write_haproxy(settings)
    _remove_old_sessions(ray_folder(settings))
    write_state(settings, state)
    try:
        if owns_ray:
            say(f"Starting Ray with {settings.num_cpus} logical CPUs ...")
            _run(_ray_command(settings, state), environment, RAY_START_S, "Ray")
        say("Starting the control application ...")
        control = [sys.executable, str(serve_apps() / "control.py")]
        _run(control, environment, CONTROL_START_S, "the control application")
        _wait_for_answer(settings)
    except BaseException:
        end_processes(state)
        settings.process_path.unlink(missing_ok=True)
        raise
    ready = state.model_copy(update={"ready": True})
    write_state(settings, ready)
    return ready


def serve_apps() -> Path:
    """Return the folder of the Serve applications: beside the source in a checkout, inside an installed package."""
    package = Path(lightmill.__file__).parent
    checkout = package.parents[1] / "serve_apps"
    return checkout if checkout.is_dir() else package / "_entrypoints" / "serve_apps"


def _ray_command(settings: Settings, state: PlatformState) -> list[str]:
    command = [
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--head",
        f"--node-ip-address={settings.host}",
        f"--port={settings.ray_port}",
        f"--dashboard-host={settings.host}",
        f"--dashboard-port={settings.dashboard_port}",
        f"--num-cpus={settings.num_cpus}",
        f"--temp-dir={state.ray_folder}",
        f"--object-spilling-directory={node_spill_folder(settings)}",
        "--dashboard-agent-listen-port=0",
        "--include-log-monitor=true",
        "--disable-usage-stats",
    ]
    if settings.num_gpus is not None:
        command.append(f"--num-gpus={settings.num_gpus}")
    if settings.object_store_bytes is not None:
        command.append(f"--object-store-memory={settings.object_store_bytes}")
    return command


def _run(command: list[str], environment: dict[str, str], timeout_s: float, what: str) -> None:
    """Run a step to its end; its last line of output may be an error of ours as JSON."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise UnavailableError(f"{what[0].upper()}{what[1:]} did not start within {timeout_s:g} s.") from exc
    if done.returncode == 0:
        return
    lines = done.stdout.strip().splitlines()
    try:
        problem = json.loads(lines[-1]) if lines else {}
    except ValueError:
        problem = {}
    if isinstance(problem, dict) and "error" in problem:
        raise error_named(problem.get("type", ""))(problem["error"])
    tail = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-12:])
    raise UnavailableError(f"{what[0].upper()}{what[1:]} did not start (exit {done.returncode}):\n{tail}")


def _wait_for_answer(settings: Settings) -> None:
    end = time.monotonic() + ANSWER_S
    while time.monotonic() < end:
        if _live(settings):
            return
        time.sleep(0.2)
    raise UnavailableError(f"The control application does not answer at {settings.local_url}.")


def _check_ports(settings: Settings, *, owns_ray: bool) -> None:
    wanted = {"LIGHTMILL_HTTP_PORT": settings.http_port}
    if settings.grpc_port:
        wanted["LIGHTMILL_GRPC_PORT"] = settings.grpc_port
    if owns_ray:
        wanted |= {
            "LIGHTMILL_RAY_PORT": settings.ray_port,
            "LIGHTMILL_DASHBOARD_PORT": settings.dashboard_port,
            "LIGHTMILL_STATS_PORT": settings.stats_port,
            "LIGHTMILL_METRICS_PORT": settings.metrics_port,
            "LIGHTMILL_FALLBACK_PORT": settings.fallback_port,
        }
    for variable, port in wanted.items():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as exc:
                raise ConflictError(
                    f"Port {port} on {settings.host} is in use. Stop what listens there, or set {variable} to "
                    "another port."
                ) from exc


def _own_folder(path: Path) -> None:
    """Make a folder for this user alone, or see that the one which stands there is."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UnavailableError(
            f"{path} must be a folder that belongs to you alone (mode 0700), but is not. Remove it, or set "
            "LIGHTMILL_HOME to another home."
        )


def _remove_old_sessions(folder: Path) -> None:
    """Keep the logs of the last few Ray sessions."""
    sessions = sorted(path for path in folder.glob("session_2*") if not path.is_symlink())
    for path in sessions[:-KEPT_SESSIONS]:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Hold a lock, so that two `up` at once do not start two platforms."""
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _own_folder(settings.run_path)
        file = (settings.home / "up.lock").open("w")
    except OSError as exc:
        raise UnavailableError(
            f"{settings.home} cannot be written: {exc.strerror}. Set LIGHTMILL_HOME to a folder that can."
        ) from exc
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
