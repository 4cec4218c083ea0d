"""A whole platform of the tests' own: its home in a temporary folder, every port free before it starts."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lightmill.settings import Settings

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
COMMAND_S = 400
PORTS = ("HTTP_PORT", "GRPC_PORT", "RAY_PORT", "DASHBOARD_PORT", "STATS_PORT", "METRICS_PORT", "FALLBACK_PORT")


@dataclass(frozen=True)
class Command:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out.strip().splitlines()[-1])


@dataclass(frozen=True)
class TestPlatform:
    """Runs commands with the environment of one platform."""

    __test__ = False
    environment: dict[str, str]
    home: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environment['LIGHTMILL_HTTP_PORT']}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.environment['LIGHTMILL_GRPC_PORT']}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.environment['LIGHTMILL_DASHBOARD_PORT']}"

    @property
    def sessions(self) -> Path:
        """Where Ray keeps its sessions and logs."""
        return Settings(home=self.home).run_path

    @property
    def key(self) -> str:
        return (self.home / "keys" / "admin.key").read_text().strip()

    def run(self, *command: str | Path, check: bool = True, **more: str) -> Command:
        """Run a program; with `check`, fail the test if its exit code is not 0."""
        words = [str(word) for word in command]
        done = subprocess.run(
            words,
            env=self.environment | more,
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=COMMAND_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        found = Command(done.returncode, done.stdout, done.stderr)
        assert not check or found.code == 0, f"{words} ended with {found.code}:\n{found.out}\n{found.err}"
        return found

    def lightmill(self, *arguments: str | Path, check: bool = True, **more: str) -> Command:
        return self.run(BIN / "lightmill", *arguments, check=check, **more)

    def processes(self) -> list[psutil.Process]:
        """Every live process whose environment or arguments name this platform's home."""
        found = []
        folders = (str(self.home), str(self.sessions))
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("LIGHTMILL_HOME") == str(self.home)
                named = any(folder in word for word in process.cmdline() for folder in folders)
                if (mine or named) and process.status() != "zombie":
                    found.append(process)
            except psutil.Error:
                continue
        return [process for process in found if process.pid != os.getpid()]


PORTS_TRIED = range(20_000, 32_000)
"""Below those that the kernel gives to connections: such a one would be taken by the time a server binds it."""


def free_ports(count: int) -> list[int]:
    found: list[int] = []
    with ExitStack() as stack:
        for port in random.SystemRandom().sample(PORTS_TRIED, len(PORTS_TRIED)):
            one = stack.enter_context(socket.socket())
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"fewer than {count} ports are free")


@contextmanager
def temporary_platform() -> Iterator[TestPlatform]:
    """Yield the environment of a platform that is not up yet; whatever was started is gone at the end."""
    home = Path(tempfile.mkdtemp(prefix="lm-"))
    ports = {f"LIGHTMILL_{name}": str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LIGHTMILL_", "RAY_"))}
    environment = kept | ports | {"LIGHTMILL_HOME": str(home), "PATH": f"{BIN}{os.pathsep}{kept['PATH']}"}
    platform = TestPlatform(environment | {"COLUMNS": "160"}, home)
    try:
        yield platform
    finally:
        if (home / "platform.json").exists():
            platform.lightmill("down", check=False)
        for process in platform.processes():
            process.kill()
        shutil.rmtree(platform.sessions, ignore_errors=True)
        shutil.rmtree(Settings(home=home).spill_folder, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)
