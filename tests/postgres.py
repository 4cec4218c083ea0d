"""A private PostgreSQL server for tests: on loopback, on a free port, in a temporary directory.

PostgreSQL refuses to run as root, so root starts it as the user `postgres`.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

USER = "lightmill"
PASSWORD = "pg-Secret-7731"
START_TIMEOUT_S = 60


def postgres_programs() -> Path | None:
    """Return the folder of initdb and postgres, or None where PostgreSQL is not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    found = shutil.which("initdb")
    candidates = [*folders, *([Path(found).resolve().parent] if found else [])]
    return next((folder for folder in candidates if (folder / "postgres").exists()), None)


def why_no_postgres() -> str | None:
    """Return why no server can be started here, or None when one can."""
    if postgres_programs() is None:
        return "PostgreSQL is not installed (no /usr/lib/postgresql/*/bin/postgres)"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "we are root and there is no user postgres to run the server as"
    return None


class PostgresServer:
    """A running server; `new_database` makes an empty database and returns its URL."""

    def __init__(self, port: int) -> None:
        self.port = port

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        name = f"t{secrets.token_hex(6)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a server and end it, by its process id, when the block ends."""
    programs = postgres_programs()
    assert programs is not None, why_no_postgres()
    root = Path(tempfile.mkdtemp(prefix="lightmill-postgres-", dir="/tmp"))
    identity = _identity(root)
    try:
        _initialise(programs, root, identity)
        process, server = _start(programs, root, identity)
        try:
            _wait_until_ready(process, server, root)
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # "fast": ends sessions, then stops
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)
                process.wait(timeout=20)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _identity(root: Path) -> dict[str, object]:
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam("postgres")
    os.chown(root, entry.pw_uid, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _initialise(programs: Path, root: Path, identity: dict) -> None:
    password_file = root / "password"
    password_file.write_text(PASSWORD)
    password_file.chmod(0o644)
    subprocess.run(
        [
            str(programs / "initdb"), "-D", str(root / "data"), "-U", USER, "--pwfile", str(password_file),
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions",
        ],
        check=True, cwd=root, stdout=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin"}, **identity,
    )  # fmt: skip


def _start(programs: Path, root: Path, identity: dict) -> tuple[subprocess.Popen, PostgresServer]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "shared_buffers": "16MB",
        "max_connections": "60",
    }
    flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(programs / "postgres"), "-D", str(root / "data"), "-p", str(port), *flags],
            cwd=root, stdout=log, stderr=log, env={"PATH": "/usr/bin:/bin"}, **identity,
        )  # fmt: skip
    return process, PostgresServer(port)


def _wait_until_ready(process: subprocess.Popen, server: PostgresServer, root: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            psycopg.connect(server.url("postgres"), connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {(root / 'log').read_text()}") from None
            time.sleep(0.1)
