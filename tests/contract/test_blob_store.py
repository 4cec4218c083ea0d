"""What every store must do, run on every adapter."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightmill.errors import ConflictError, IntegrityError, NotFoundError, RequestError, UnavailableError
from lightmill.registry.cache import CachingStore
from lightmill.storage import BlobStore, LocalStore, MemoryStore, RetryingStore, RetryPolicy, open_store
from lightmill.storage.address import RemoteAddress
from tests.faulty import FaultyStore, seeded

obstore = pytest.importorskip("obstore.store", reason="obstore is not installed")

NAMES = [
    "lightmill.json",
    "b/ab/" + "0" * 64,
    "b/ab-c/x",
    "b/ab.c/x",
    "b/ab/x",
    "r/mid/v/0000000001",
    "r/mid/a/Prod_1.2-x/0000000000",
    "r/mid2/v/0000000001",
]
BAD_NAMES = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/..",
    "../a",
    "a/../b",
    "a/./b",
    ".hidden",
    "-option",
    "a\\b",
    "a b",
    "a\0b",
    "a\n",
    "ü",
    "~/a",
    "tmp",
    "tmp/x",
    "a" * 201,
    "/".join(["a" * 100] * 6),
]


# "s3" is a real server; "gs" and "az" are a tiny one that speaks as much of their protocols as the client uses.
KINDS = ["local", "memory", "faulty", "cached", "obstore", "s3", "gs", "az"]


def new_store(kind: str, request: pytest.FixtureRequest) -> BlobStore:
    if kind == "local":
        return LocalStore(request.getfixturevalue("tmp_path") / "deep" / "store")
    if kind == "memory":
        return MemoryStore()
    if kind == "faulty":
        return RetryingStore(FaultyStore(MemoryStore(), seeded(11)), RetryPolicy(), sleep=lambda _: None)
    if kind == "cached":
        return CachingStore(MemoryStore(), request.getfixturevalue("tmp_path") / "cache", 1 << 20)
    if kind == "obstore":
        return in_memory_bucket()
    if kind in ("gs", "az"):
        return open_store(request.getfixturevalue("tiny_url")(kind))
    return open_store(request.getfixturevalue("seaweed").url())


def in_memory_bucket() -> BlobStore:
    """The remote adapter on obstore's own memory, without the network."""
    from lightmill.storage.remote import RemoteStore

    class MemoryBucket(RemoteStore):
        def create(self, name: str, data: Any) -> None:
            super().create(name, bytes(data))  # this backend keeps the caller's own memory; a network sends it

    return MemoryBucket(obstore.MemoryStore(), RemoteAddress(scheme="s3", bucket="memory"))


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> BlobStore:
    return new_store(request.param, request)


def test_what_is_created_is_read(store: BlobStore) -> None:
    for size in (0, 1, 4096, 1_000_003):
        data = os.urandom(size)
        store.create(f"b/{size}", memoryview(data))
        assert store.get(f"b/{size}") == data
        assert store.head(f"b/{size}") == size


def test_any_contiguous_buffer_is_stored(store: BlobStore) -> None:
    data = bytearray(b"12345678")
    store.create("a", memoryview(data).cast("i"))
    data[:] = b"XXXXXXXX"
    assert store.get("a") == b"12345678"


def test_a_name_is_written_once(store: BlobStore) -> None:
    store.create("a/b", b"first")
    for data in (b"second", b"first", b""):
        with pytest.raises(ConflictError):
            store.create("a/b", data)
    assert store.get("a/b") == b"first"


def test_absent_objects_are_not_found(store: BlobStore) -> None:
    store.create("a/b/c", b"x")
    for name in ("none", "a/none", "a/b/none", "none/a", "a/b"):
        for read in (
            lambda n: store.get(n),
            lambda n: store.get_range(n, 0, 1),
            lambda n: store.get_range(n, 0, 0),
            lambda n: store.get_view(n, 0, 1),
            lambda n: store.read_into(n, 0, memoryview(bytearray(1))),
            lambda n: store.head(n),
        ):
            with pytest.raises(NotFoundError):
                read(name)


def test_ranges_are_exact(store: BlobStore) -> None:
    data = os.urandom(10_000)
    store.create("a", data)
    for offset, length in ((0, 10_000), (0, 1), (9_999, 1), (10_000, 0), (0, 0), (1234, 5678)):
        assert store.get_range("a", offset, length) == data[offset : offset + length]
        assert store.get_view("a", offset, length) == data[offset : offset + length]
        out = memoryview(bytearray(length))
        store.read_into("a", offset, out)
        assert out == data[offset : offset + length]
    for offset, length in ((0, 10_001), (9_999, 2), (10_000, 1), (10_001, 0), (1 << 40, 1), (0, 1 << 50)):
        with pytest.raises(IntegrityError, match="shorter"):
            store.get_range("a", offset, length)
        with pytest.raises(IntegrityError, match="shorter"):
            store.get_view("a", offset, length)
    for offset, length in ((0, 10_001), (10_000, 1), (1 << 40, 1)):
        with pytest.raises(IntegrityError, match="shorter"):
            store.read_into("a", offset, memoryview(bytearray(length)))
    for offset, length in ((-1, 1), (0, -1), (-5, -5)):
        with pytest.raises(RequestError):
            store.get_range("a", offset, length)
    with pytest.raises(RequestError):
        store.read_into("a", -1, memoryview(bytearray(1)))


def test_a_read_fills_memory_of_any_dtype(store: BlobStore) -> None:
    store.create("a", bytes(range(64)))
    out = memoryview(bytearray(32)).cast("d")
    store.read_into("a", 16, out)
    assert out.tobytes() == bytes(range(16, 48))


def test_listing_is_sorted_and_by_prefix(store: BlobStore) -> None:
    assert list(store.list("")) == []
    for name in reversed(NAMES):
        store.create(name, b"x")
    assert list(store.list("")) == sorted(NAMES)
    for prefix in (
        "b/",
        "b/ab",
        "b/ab/",
        "b/ab/0",
        "r/mid",
        "r/mid/",
        "r/mid/v/0000000001",
        "l",
        "none/",
        "zzz",
    ):
        assert list(store.list(prefix)) == sorted(name for name in NAMES if name.startswith(prefix))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.sets(st.text("ab-._0", min_size=1, max_size=3).filter(lambda t: t[0] not in ".-"), max_size=12),
    prefix=st.text("ab/0", max_size=4).filter(lambda t: not t.startswith("/") and "//" not in t),
)
def test_listings_agree_between_stores(tmp_path: Path, parts: set[str], prefix: str) -> None:
    memory, local = MemoryStore(), LocalStore(tmp_path / os.urandom(8).hex(), fsync=lambda _: None)
    for first in parts:
        for second in parts:
            for one in (memory, local):
                one.create(f"{first}/{second}", b"")
    assert list(memory.list(prefix)) == list(local.list(prefix))


def test_deleting_is_final_and_repeatable(store: BlobStore) -> None:
    store.create("a/b", b"x")
    store.create("a/c", b"x")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/was")
    assert list(store.list("")) == ["a/c"]
    with pytest.raises(NotFoundError):
        store.get("a/b")
    store.create("a/b", b"again")
    assert store.get("a/b") == b"again"


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused_everywhere(store: BlobStore, name: str) -> None:
    calls: list[Any] = [
        lambda: store.create(name, b"x"),
        lambda: store.get(name),
        lambda: store.get_range(name, 0, 1),
        lambda: store.get_view(name, 0, 1),
        lambda: store.read_into(name, 0, memoryview(bytearray(1))),
        lambda: store.head(name),
        lambda: store.delete(name),
    ]
    for call in calls:
        with pytest.raises(RequestError) as refused:
            call()
        assert not isinstance(refused.value, NotFoundError | ConflictError)
    assert list(store.list("")) == []


@pytest.mark.parametrize("prefix", ["/", "../", "a/..", "a//", "a b", "\0", "b/.."])
def test_bad_prefixes_are_refused_at_once(store: BlobStore, prefix: str) -> None:
    with pytest.raises(RequestError):
        store.list(prefix)


def test_of_many_threads_one_wins_every_name(store: BlobStore) -> None:
    # SeaweedFS looks at a busy lock once a second; test_remote_stores.py sends sixteen publishers there.
    threads, rounds = (4, 2) if store.url.startswith("s3://lightmill") else (16, 10)
    for round_number in range(rounds):
        name, ready = f"race/{round_number}", threading.Barrier(threads)

        def attempt(i: int, name: str = name, ready: threading.Barrier = ready) -> bytes | None:
            data = bytes([i]) * 5000
            ready.wait()
            try:
                store.create(name, data)
            except ConflictError:
                return None
            return data

        with ThreadPoolExecutor(threads) as pool:
            won = [data for data in pool.map(attempt, range(threads)) if data]
        assert won == [store.get(name)]


RACER = """
import sys
from lightmill.errors import ConflictError
from lightmill.storage import LocalStore
store, me = LocalStore(sys.argv[1]), sys.argv[2]
sys.stdin.readline()
for i in range(150):
    try:
        store.create(f"n/{i}", (me * 3000).encode())
        print(i)
    except ConflictError:
        pass
"""


def test_of_two_processes_one_wins_every_name(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path / "store"), me],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for me in "xy"
    ]
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = {me: set(racer.communicate(timeout=60)[0].split()) for me, racer in zip("xy", racers, strict=True)}
    assert [racer.returncode for racer in racers] == [0, 0]
    assert not won["x"] & won["y"]
    assert won["x"] | won["y"] == {str(i) for i in range(150)}
    store = LocalStore(tmp_path / "store")
    for me, names in won.items():
        assert all(store.get(f"n/{i}") == (me * 3000).encode() for i in names)
    assert os.listdir(tmp_path / "store" / "tmp") == []


def test_a_probe_passes_and_leaves_nothing(store: BlobStore) -> None:
    store.probe()
    assert list(store.list("")) == []


class OverwritingStore(MemoryStore):
    """Ignores the condition, as some S3 servers do."""

    def create(self, name: str, data: Any) -> None:
        self._objects[name] = bytes(data)


class CheckingStore(MemoryStore):
    """Checks first and writes later: right for one writer, wrong for two."""

    def create(self, name: str, data: Any) -> None:
        if name in self._objects:
            raise ConflictError("exists")
        time.sleep(0.02)
        self._objects[name] = bytes(data)


class LosingStore(MemoryStore):
    """The loser of a race is told the truth and its bytes stay all the same."""

    def create(self, name: str, data: Any) -> None:
        try:
            super().create(name, data)
        except ConflictError:
            self._objects[name] = bytes(data)
            raise


class RefusingStore(MemoryStore):
    """Nobody wins."""

    def create(self, name: str, data: Any) -> None:
        raise ConflictError("exists")


@pytest.mark.parametrize("kind", [OverwritingStore, CheckingStore, LosingStore, RefusingStore])
def test_a_probe_refuses_a_store_that_is_not_atomic(kind: type[MemoryStore]) -> None:
    with pytest.raises(UnavailableError, match="not create objects atomically"):
        kind().probe()


def test_a_probe_through_retries_refuses_such_a_store_too() -> None:
    store = RetryingStore(FaultyStore(OverwritingStore(), seeded(5)), sleep=lambda _: None)
    with pytest.raises(UnavailableError, match="not create objects atomically"):
        store.probe()
