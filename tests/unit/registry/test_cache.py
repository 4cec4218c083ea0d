"""The node's cache: complete copies with the right digest, within its limit, shared by processes."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from lightmill.errors import IntegrityError, NotFoundError, UnavailableError
from lightmill.registry import RegistryLocation
from lightmill.registry.cache import CachingStore, fetch_whole
from lightmill.registry.tensors import load_slice, load_tensors
from lightmill.settings import Settings
from lightmill.storage import LocalStore
from tests.counting import CountingStore
from tests.unit.registry.world import World, open_latest, publish

MIB = 1 << 20


def add(store: CountingStore, size: int = MIB, seed: int = 0) -> str:
    """Store a blob of these many bytes and return its name; what it holds does not matter to a cache."""
    data = hashlib.shake_128(b"%d" % seed).digest(size)
    digest = hashlib.sha256(data).hexdigest()
    name = f"b/{digest[:2]}/{digest}"
    store.inner.create(name, data)
    return name


@pytest.fixture
def behind() -> CountingStore:
    return CountingStore()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache(behind: CountingStore, folder: Path) -> CachingStore:
    return CachingStore(behind, folder, 100 * MIB)


def copies(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "blobs").iterdir())


# -- what is fetched ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "wanted", "whole"),
    [
        (8 * MIB, 128, False),
        (8 * MIB, 129, True),
        (8 * MIB + 1, 129, False),
        (64 * MIB, 16 * MIB, False),
        (64 * MIB, 16 * MIB + 1, True),
        (64 * MIB, 64 * MIB, True),
        (0, 0, False),
    ],
)
def test_small_blobs_and_those_of_which_much_is_wanted_are_fetched_whole(size: int, wanted: int, whole: bool) -> None:
    assert fetch_whole(size, wanted) is whole


def test_a_blob_is_fetched_once_and_read_from_the_copy(
    cache: CachingStore, behind: CountingStore, folder: Path
) -> None:
    name = add(behind)
    data = behind.inner.get(name)
    assert cache.get(name) == data
    assert behind.counts.bytes == MIB
    behind.inner.delete(name)  # no more asked
    assert cache.get(name) == data
    assert cache.get_range(name, 100, 50) == data[100:150]
    assert copies(folder) == [name[-64:]]
    assert (cache.counts.fetches, cache.counts.fetched_bytes) == (1, MIB)


def test_only_sealed_objects_are_kept(cache: CachingStore, behind: CountingStore, folder: Path) -> None:
    names = ["lightmill.json", "r/mid/v/0000000001", "b/ab/x", "b/00/" + "f" * 64, "m/ab/" + "A" * 64]
    for name in names:
        cache.create(name, b"123456")
        assert cache.get(name) == b"123456" and cache.get_range(name, 2, 3) == b"345" and cache.head(name) == 6
        out = bytearray(2)
        cache.read_into(name, 1, memoryview(out))
        assert out == b"23"
    assert not folder.exists()
    assert list(cache.list("")) == sorted(names) and cache.url == behind.url
    for name in names:
        cache.delete(name)
        with pytest.raises(NotFoundError):
            cache.get(name)


def test_a_small_part_of_a_large_blob_passes_through(cache: CachingStore, behind: CountingStore, folder: Path) -> None:
    name = add(behind, 9 * MIB)
    data = behind.inner.get(name)
    assert cache.get_range(name, 5, 1000) == data[5:1005]
    assert (behind.counts.bytes, folder.exists()) == (1000, False)
    assert cache.get_range(name, 0, 3 * MIB) == data[: 3 * MIB]
    assert copies(folder) == [name[-64:]]
    assert cache.get_range(name, 5, 1000) == data[5:1005]
    assert behind.counts.bytes == 1000 + 9 * MIB


def test_ranges_outside_the_object_are_refused_as_the_store_refuses_them(
    cache: CachingStore, behind: CountingStore
) -> None:
    name = add(behind, 1000)
    cache.get(name)
    for offset, length in ((0, 1001), (1000, 1), (5000, 1)):
        with pytest.raises(IntegrityError):
            cache.get_range(name, offset, length)
        with pytest.raises(IntegrityError):
            cache.read_into(name, offset, memoryview(bytearray(length)))
    assert cache.get_range(name, 1000, 0) == b""


def test_the_store_behind_says_what_is_there(cache: CachingStore, behind: CountingStore, folder: Path) -> None:
    """A publisher that looks a blob up must not be told of one that only a cache still has."""
    name = add(behind)
    cache.get(name)
    behind.inner.delete(name)
    with pytest.raises(NotFoundError):
        cache.head(name)
    cache.delete(name)
    assert copies(folder) == []


def test_the_folder_is_its_owners_alone(cache: CachingStore, behind: CountingStore, folder: Path) -> None:
    folder.mkdir(mode=0o755)
    folder.chmod(0o777)
    cache.get(add(behind))
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


# -- the limit ------------------------------------------------------------------------


def test_what_was_not_used_for_longest_makes_room(behind: CountingStore, folder: Path) -> None:
    cache = CachingStore(behind, folder, 3 * MIB)
    names = [add(behind, seed=n) for n in range(4)]
    for n, name in enumerate(names[:3]):
        cache.get(name)
        os.utime(folder / "blobs" / name[-64:], ns=(n * 10**9, n * 10**9))
    cache.get(names[0])  # used again: now the second is the oldest
    cache.get(names[3])
    assert copies(folder) == sorted(name[-64:] for name in (names[0], names[2], names[3]))
    assert cache.counts.evicted == 1


def test_the_limit_holds_while_many_threads_fetch(behind: CountingStore, folder: Path) -> None:
    cache = CachingStore(behind, folder, 5 * MIB)
    names = [add(behind, seed=n) for n in range(24)]
    held: list[int] = []
    behind.before_read = lambda _: held.append(size_of(folder))
    wrong: list[str] = []

    def read(turn: int) -> None:
        for name in names[turn::2] + names[turn::3]:
            if hashlib.sha256(cache.get(name)).hexdigest() != name[-64:]:
                wrong.append(name)

    threads = [threading.Thread(target=read, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and max(held) <= 5 * MIB and size_of(folder) <= 5 * MIB
    assert list((folder / "parts").iterdir()) == []


def size_of(folder: Path) -> int:
    """What the files hold; a part that has just become a copy has two names for a moment."""
    sizes = {}
    for path in [*folder.glob("blobs/*"), *folder.glob("parts/*")]:
        with suppress(FileNotFoundError):
            found = path.stat()
            sizes[found.st_ino] = found.st_size
    return sum(sizes.values())


def test_a_blob_larger_than_the_cache_passes_through(behind: CountingStore, folder: Path) -> None:
    cache = CachingStore(behind, folder, MIB)
    name = add(behind, 2 * MIB)
    assert cache.get(name) == behind.inner.get(name)
    assert copies(folder) == []


def test_a_copy_that_is_evicted_while_it_is_read_stays_readable(behind: CountingStore, folder: Path) -> None:
    cache = CachingStore(behind, folder, MIB)
    one, two = add(behind, seed=1), add(behind, seed=2)
    source = cache.open_source(one, MIB, MIB)
    cache.get(two)
    assert copies(folder) == [two[-64:]]
    out = bytearray(MIB)
    source.read_into(0, memoryview(out))
    source.close()
    assert out == behind.inner.get(one)


def test_a_cache_that_cannot_be_written_lets_reads_pass(behind: CountingStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = CachingStore(behind, tmp_path / "file" / "cache", 10 * MIB)
    name = add(behind)
    assert cache.get(name) == behind.inner.get(name)
    assert cache.get_range(name, 3, 4) == behind.inner.get(name)[3:7]


# -- damage -------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer", "another", "emptied"])
def test_a_damaged_copy_is_fetched_again(cache: CachingStore, behind: CountingStore, folder: Path, damage: str) -> None:
    name, other = add(behind), add(behind, seed=9)
    data = cache.get(name)
    path = folder / "blobs" / name[-64:]
    path.write_bytes(
        {
            "flipped": data[:500] + bytes([data[500] ^ 1]) + data[501:],
            "cut": data[:-1],
            "longer": data + b"\0",
            "another": behind.inner.get(other),
            "emptied": b"",
        }[damage]
    )
    assert cache.get(name) == data
    assert path.read_bytes() == data
    assert (cache.counts.damaged, cache.counts.fetches) == (1, 2)


def test_a_store_that_lies_fills_no_cache(cache: CachingStore, behind: CountingStore, folder: Path) -> None:
    name = "b/ab/ab" + "0" * 62
    behind.inner.create(name, b"other bytes than the name says")
    with pytest.raises(IntegrityError, match=name):
        cache.get(name)
    assert copies(folder) == [] and list((folder / "parts").iterdir()) == []


def test_a_store_that_goes_away_leaves_no_part(cache: CachingStore, behind: CountingStore, folder: Path) -> None:
    name = add(behind, 20 * MIB)

    def fail(_: str) -> None:
        if behind.counts.reads:
            raise UnavailableError("gone")

    behind.before_read = fail
    with pytest.raises(UnavailableError):
        cache.get(name)
    assert copies(folder) == [] and list((folder / "parts").iterdir()) == []
    behind.before_read = lambda _: None
    assert cache.get(name) == behind.inner.get(name)


# -- many processes -------------------------------------------------------------------------


class LoggingStore(CountingStore):
    """Counts what all processes read, in a file."""

    def __init__(self, root: Path, log: Path) -> None:
        super().__init__(LocalStore(root, fsync=lambda _: None))
        self.log = log

    def _note(self, name: str, offset: int, length: int) -> None:
        super()._note(name, offset, length)
        with self.log.open("a") as file:
            file.write(f"{length}\n")
        time.sleep(0.002)  # others arrive meanwhile


def test_ten_processes_read_the_store_once(tmp_path: Path, folder: Path) -> None:
    store = LoggingStore(tmp_path / "store", tmp_path / "log")
    names = [add(store, MIB // 2, seed=n) for n in range(6)]

    def replica() -> None:
        cache = CachingStore(LoggingStore(tmp_path / "store", tmp_path / "log"), folder, 100 * MIB)
        good = all(hashlib.sha256(cache.get(name)).hexdigest() == name[-64:] for name in names)
        os._exit(0 if good else 1)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=replica) for _ in range(10)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 10
    read = sum(map(int, (tmp_path / "log").read_text().split()))
    print(f"ten processes, {len(names)} blobs: {read} bytes read of {len(names) * MIB // 2}")
    assert read == len(names) * MIB // 2


def test_a_process_that_is_killed_while_it_fetches_holds_up_nobody(tmp_path: Path, folder: Path) -> None:
    store = LoggingStore(tmp_path / "store", tmp_path / "log")
    name, other = add(store, 10 * MIB), add(store, MIB, seed=2)
    started = tmp_path / "started"

    def victim() -> None:
        def wait(_: str) -> None:
            if store.counts.reads:
                started.touch()
                time.sleep(60)

        store.before_read = wait
        CachingStore(store, folder, 11 * MIB).get(name)

    process = multiprocessing.get_context("fork").Process(target=victim)
    process.start()
    while not started.exists():
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(30)
    assert (folder / "parts" / name[-64:]).stat().st_size == 10 * MIB
    cache = CachingStore(store, folder, 11 * MIB)
    cache.get(other)  # what the dead one had reserved counts no more
    assert list((folder / "parts").iterdir()) == []
    assert hashlib.sha256(cache.get(name)).hexdigest() == name[-64:]
    assert sorted(copies(folder)) == sorted([name[-64:], other[-64:]])


# -- loading through it ------------------------------------------------------------------------


def state() -> dict[str, torch.Tensor]:
    return {
        "big": torch.arange(12 * MIB // 4, dtype=torch.int32).reshape(12, -1),
        "small": torch.arange(100.0),
    }


def test_a_second_load_on_the_node_reads_no_blob_and_no_manifest(world: World, folder: Path) -> None:
    publish(world.registry, state=state())
    for turn in range(3):
        behind = CountingStore(world.store)
        cache = CachingStore(behind, folder, 100 * MIB)
        found = load_tensors(open_latest(world.new_registry(store=cache)))
        assert all(torch.equal(found[name], value) for name, value in state().items())
        read = behind.counts.of("b/") + behind.counts.of("m/")
        whole = sum(world.store.head(name) for prefix in ("b/", "m/") for name in world.names(prefix))
        assert read == (0 if turn else whole)


def test_a_small_shard_passes_through_the_cache(world: World, folder: Path) -> None:
    publish(world.registry, state=state())
    behind = CountingStore(world.store)
    version = open_latest(world.new_registry(store=CachingStore(behind, folder, 100 * MIB)))
    behind.forget()
    assert torch.equal(load_slice(version, "big", 3, 4), state()["big"][3:4])
    assert behind.counts.bytes <= 3 * MIB + 256


# -- settings ------------------------------------------------------------------------------------


def test_a_cache_is_on_for_remote_stores_only(tmp_path: Path) -> None:
    local = Settings(home=tmp_path)
    assert local.cache_limit_bytes == 0
    assert Settings(home=tmp_path, store=f"file://{tmp_path}/store").cache_limit_bytes == 0
    remote = Settings(home=tmp_path, store="s3://bucket/prefix")
    assert 0 < remote.cache_limit_bytes <= 20 << 30
    assert remote.cache_folder == tmp_path / "cache"
    assert Settings(home=tmp_path, store="s3://bucket", cache_bytes=0).cache_limit_bytes == 0
    chosen = Settings(home=tmp_path, cache_bytes=7 * MIB, cache_path=tmp_path / "fast")
    assert (chosen.cache_limit_bytes, chosen.cache_folder) == (7 * MIB, tmp_path / "fast")
    passed_on = chosen.node_environment()
    assert passed_on["LIGHTMILL_CACHE_BYTES"] == str(7 * MIB)
    assert passed_on["LIGHTMILL_CACHE_PATH"] == str(tmp_path / "fast")


def test_a_location_opens_its_store_through_the_cache(world: World, folder: Path) -> None:
    summary = publish(world.registry, state=state())
    location = RegistryLocation(
        store_url=str(world.root),
        keyring_path=str(world.ring.path),
        workspace="default",
        cache_path=str(folder),
        cache_bytes=50 * MIB,
    )
    found = load_tensors(location.open().open(summary.id))
    assert torch.equal(found["big"], state()["big"])
    blobs = {blob.id for blob in world.registry.open(summary.id).manifest.blobs}
    assert blobs < set(copies(folder))
