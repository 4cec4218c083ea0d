"""What `up` started: its file, its processes, its ports."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from lightmill.errors import ConflictError, IntegrityError, NotFoundError, UnavailableError
from lightmill.launch import down, read_state, up
from lightmill.launch.down import end_processes
from lightmill.launch.haproxy import write_haproxy
from lightmill.launch.state import MARK_VARIABLE, PlatformState, platform_processes, write_state
from lightmill.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    made = Settings(home=tmp_path / "home")
    made.home.mkdir()
    yield made
    shutil.rmtree(made.run_path, ignore_errors=True)


def state(settings: Settings, **fields: object) -> PlatformState:
    return PlatformState.model_validate(
        {
            "mark": "test-" + os.urandom(8).hex(),
            "url": settings.base_url,
            "dashboard_url": "",
            "ray_address": "",
            "ray_folder": str(settings.run_path / "ray"),
            "owns_ray": True,
            "started": "now",
            **fields,
        }
    )


def test_a_state_is_written_for_its_owner_alone_and_read_back(settings: Settings) -> None:
    assert read_state(settings) is None
    written = state(settings)
    write_state(settings, written)
    assert read_state(settings) == written
    assert stat.S_IMODE(settings.process_path.stat().st_mode) == 0o600
    write_state(settings, written.model_copy(update={"ready": True}))
    found = read_state(settings)
    assert found is not None and found.ready
    assert [path.name for path in settings.home.iterdir()] == [settings.process_path.name]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"mark": 1}', b"\xff\xfe", b'{"pid": 3}'])
def test_a_damaged_state_is_refused_by_its_path_with_a_remedy(settings: Settings, content: bytes) -> None:
    settings.process_path.write_bytes(content)
    with pytest.raises(IntegrityError, match=rf"{settings.process_path.name} is damaged.*{MARK_VARIABLE}"):
        read_state(settings)


def test_nothing_to_stop_is_not_found(settings: Settings) -> None:
    with pytest.raises(NotFoundError, match="nothing to stop"):
        down(settings)


@contextmanager
def sleeper(*arguments: str, **environment: str) -> Iterator[psutil.Process]:
    """A process that waits; the environment is its own alone."""
    code = "import sys; print('ready', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.communicate()


def pids(of: PlatformState) -> set[int]:
    return {process.pid for process in platform_processes(of)}


def test_only_processes_with_the_mark_belong_to_a_platform(settings: Settings) -> None:
    mine, other = state(settings), state(settings)
    with (
        sleeper(**{MARK_VARIABLE: mine.mark}) as marked,
        sleeper(**{MARK_VARIABLE: other.mark}) as elsewhere,
        sleeper() as unmarked,
    ):
        assert pids(mine) == {marked.pid}
        assert pids(other) == {elsewhere.pid}
        assert unmarked.pid not in pids(mine) | pids(other)
        assert os.getpid() not in pids(mine)
    assert pids(mine) == set()


def test_a_worker_is_found_by_the_session_folder_in_its_command(settings: Settings) -> None:
    mine = state(settings)
    with sleeper(f"--session={mine.ray_folder}/session_1") as worker:
        assert pids(mine) == {worker.pid}


def test_a_folder_whose_name_only_begins_the_same_is_another_s(settings: Settings) -> None:
    mine = state(settings)
    with sleeper(f"--session={mine.ray_folder}-of-somebody-else/session_1"):
        assert pids(mine) == set()


def test_stopping_ends_what_was_started_and_nothing_else(settings: Settings) -> None:
    mine = state(settings)
    write_state(settings, mine)
    with sleeper(**{MARK_VARIABLE: mine.mark}) as marked, sleeper() as unmarked:
        assert down(settings) == 1
        assert not marked.is_running() or marked.status() == psutil.STATUS_ZOMBIE
        assert unmarked.is_running() and unmarked.status() != psutil.STATUS_ZOMBIE
    assert read_state(settings) is None


def test_the_processes_of_a_ray_that_somebody_else_started_are_left_alone(settings: Settings) -> None:
    mine = state(settings, owns_ray=False)
    with sleeper(**{MARK_VARIABLE: mine.mark}) as marked:
        assert end_processes(mine) == 0
        assert marked.is_running()


# -- up -------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


FIELDS = ["http_port", "grpc_port", "ray_port", "dashboard_port", "stats_port", "metrics_port", "fallback_port"]


@pytest.mark.parametrize("taken", FIELDS)
def test_a_port_in_use_is_a_conflict_before_anything_is_started(tmp_path: Path, taken: str) -> None:
    settings = Settings(home=tmp_path / "home", **dict(zip(FIELDS, free_ports(len(FIELDS)), strict=True)))  # pyright: ignore
    said: list[str] = []
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", getattr(settings, taken)))
        occupied.listen()
        with pytest.raises(ConflictError) as caught:
            up(settings, said.append)
    assert str(getattr(settings, taken)) in caught.value.message
    assert f"LIGHTMILL_{taken.upper()}" in caught.value.message
    assert said == []
    assert read_state(settings) is None
    assert not settings.keyring_path.exists()
    shutil.rmtree(settings.run_path, ignore_errors=True)


def test_a_home_that_cannot_be_made_is_unavailable_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UnavailableError, match="LIGHTMILL_HOME"):
        up(Settings(home=tmp_path / "file"), print)


@pytest.mark.parametrize("kind", ["open to others", "a link", "a file"])
def test_a_run_folder_that_somebody_else_may_have_made_is_refused(
    settings: Settings, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "trap").mkdir()
    if kind == "open to others":
        settings.run_path.mkdir()
        settings.run_path.chmod(0o777)
    elif kind == "a link":
        settings.run_path.symlink_to(tmp_path / "trap")
    else:
        settings.run_path.touch()
    try:
        with socket.socket() as occupied:  # should it not be refused, a taken port ends it
            occupied.bind(("127.0.0.1", 0))
            occupied.listen()
            taken = settings.model_copy(update={"http_port": occupied.getsockname()[1]})
            with pytest.raises(UnavailableError):
                up(taken, print)
        assert list((tmp_path / "trap").iterdir()) == []
    finally:
        if not settings.run_path.is_dir() or settings.run_path.is_symlink():
            settings.run_path.unlink()


# -- HAProxy ----------------------------------------------------------------------------

CONFIG = """global
    stats socket /tmp/admin.sock mode 666 level admin
defaults
    timeout client 3600s
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:8000
listen stats
  bind *:8404
"""


def test_the_haproxy_wrapper_rewrites_every_open_bind_and_runs_the_real_one(settings: Settings, tmp_path: Path) -> None:
    write_haproxy(settings)
    script = Path(settings.node_environment()["RAY_SERVE_HAPROXY_BINARY_PATH"])
    assert stat.S_IMODE(script.stat().st_mode) == 0o700
    config = tmp_path / "a config.cfg"
    config.write_text(CONFIG)
    done = subprocess.run(
        [str(script), "-v", "-f", str(config)], capture_output=True, text=True, timeout=30, check=False
    )
    text = config.read_text()
    assert "bind 127.0.0.1:9101" in text
    assert "bind 127.0.0.1:8404" in text
    assert text.count("bind 127.0.0.1:") == 3
    assert "bind :" not in text and "bind *" not in text
    patience = " # Lightmill\n    timeout http-request 30s"
    assert text.count(patience) == 1
    back = text.replace("127.0.0.1:9101", ":9101").replace("127.0.0.1:8404", "*:8404")
    assert back.replace(patience, "") == CONFIG
    assert "HAProxy version" in done.stdout, done.stderr
    subprocess.run([str(script), "-v", "-f", str(config)], capture_output=True, timeout=30, check=True)
    assert config.read_text() == text
