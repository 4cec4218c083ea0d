"""Publishers that die at any moment, and many at once: no version is lost, torn or numbered twice."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from lightmill.records.references import Reference, VersionId
from lightmill.registry import Registry, initialize_store
from lightmill.registry.care import CheckOptions, Collector, backup, check
from lightmill.registry.names import records_prefix
from lightmill.registry.signed import SignedLog
from lightmill.storage import LocalStore, MemoryStore
from lightmill.vault import KeyRing
from tests.attacks.publisher import NAME, copy_away, open_registry, publish_for_ever, publish_rounds
from tests.attacks.stage import RUN, Clock, Crash, CrashAt, Hooked, files, publish
from tests.attacks.test_collection import STORE_ID, new_store

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.attacks.publisher"])


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing.create(tmp_path / "keys" / "ring.json")


def contents(registry: Registry, name: str, seq: int) -> tuple[str, dict[str, bytes]]:
    id = registry.resolve(RUN, Reference(name=name, selector=str(seq)))
    opened = registry.open(id)
    return id.digest, {file.path: opened.read_file(file.path) for file in opened.manifest.files}


def numbers(registry: Registry, name: str) -> list[int]:
    return [int(found[-10:]) for found in registry.store.list(records_prefix(registry.mid(RUN, name)))]


# -- killed for real -------------------------------------------------------------------


def kill_publishers(tmp_path: Path, ring: KeyRing, kills: int) -> None:
    """Each life of the publisher ends by SIGKILL at a random moment, some milliseconds after it began."""
    root, pick = tmp_path / "store", random.Random(7)
    initialize_store(LocalStore(root))
    said: dict[str, int] = {}
    for life in range(kills):
        ours, theirs = processes.Pipe(duplex=False)
        first = life * 10_000
        publisher = processes.Process(target=publish_for_ever, args=(root, ring.path, first, theirs), daemon=True)
        publisher.start()
        theirs.close()
        assert ours.recv() is None
        time.sleep(pick.uniform(0, 0.5))
        publisher.kill()
        publisher.join()
        said |= drain(ours)
    registry = open_registry(root, ring.path)
    seqs = numbers(registry, NAME)
    assert seqs == list(range(1, len(seqs) + 1)), "the chain has no gaps"
    found = dict(contents(registry, NAME, seq) for seq in seqs)
    for digest, number in said.items():
        assert found[digest] == files(number, 4096), "an acknowledged version is readable"
    whole = [files(int(content["weights.bin"][:8]), 4096) for content in found.values()]
    assert whole == list(found.values()), "no version is torn"
    report = check(registry.store, ring.trusted, CheckOptions(keyring=ring))
    assert report.harmful == ()
    left = sum(not finding.problem.harmful for finding in report.findings)
    print(
        f"\n{kills} publishers killed: {len(said)} versions acknowledged, {len(seqs)} there, none lost, none torn; "
        f"{left} objects and {report.leases} leases left for the collector"
    )


def drain(said: Connection) -> dict[str, int]:
    found = {}
    try:
        while said.poll(0):
            number, digest = said.recv()
            found[digest] = number
    except EOFError:
        pass
    return found


def test_killed_publishers_lose_nothing_that_was_acknowledged(tmp_path: Path, ring: KeyRing) -> None:
    kill_publishers(tmp_path, ring, 20)


@pytest.mark.slow
def test_a_thousand_killed_publishers_lose_nothing(tmp_path: Path, ring: KeyRing) -> None:
    kill_publishers(tmp_path, ring, 1000)


def test_a_killed_backup_is_whole_and_the_next_one_goes_on(tmp_path: Path, ring: KeyRing) -> None:
    root, target, pick = tmp_path / "store", tmp_path / "copy", random.Random(8)
    initialize_store(LocalStore(root, fsync=lambda _: None))
    registry = open_registry(root, ring.path, fsync=False)
    for n in range(40):
        publish(registry, NAME, files(n, 4096))
    copy, sizes = LocalStore(target), []
    for _ in range(8):
        ours, theirs = processes.Pipe(duplex=False)
        worker = processes.Process(target=copy_away, args=(root, ring.path, target, theirs), daemon=True)
        worker.start()
        theirs.close()
        assert ours.recv() is None
        time.sleep(pick.uniform(0.03, 0.25))
        worker.kill()
        worker.join()
        sizes.append(len(list(copy.list(""))))
        if list(copy.list("lightmill.json")):
            assert check(copy, ring.trusted, CheckOptions(keyring=ring)).harmful == ()
    assert sizes == sorted(sizes), "what was copied stays copied"
    report = backup(registry.store, copy, ring.trusted)
    assert report.findings == () and set(copy.list("")) - set(copy.list("probe/")) == set(registry.store.list(""))
    print(f"\na backup killed 8 times: {sizes} objects in the copy after each, {len(list(copy.list('')))} at the end")


# -- at each store call ------------------------------------------------------------------


def at_each_call(prepare: Callable[[], MemoryStore], act: Callable[[Hooked], object], judge: Callable) -> int:
    """Crash at the first store call, the second, ... until the operation comes to its end; judge each time."""
    n = 0
    while True:
        n += 1
        store, hook = prepare(), CrashAt(n)
        try:
            act(Hooked(store, hook))
        except Crash:
            judge(store)
            continue
        judge(store)
        return n - 1


def test_a_publish_that_dies_at_any_call_is_whole_or_absent(ring: KeyRing) -> None:
    def prepare() -> MemoryStore:
        store = new_store()
        publish(Registry(store, ring, "default", STORE_ID), "a", files(1))
        return store

    def judge(store: MemoryStore) -> None:
        registry = Registry(store, ring, "default", STORE_ID)
        assert contents(registry, "a", 1)[1] == files(1)
        seqs = numbers(registry, "a")
        assert seqs in ([1], [1, 2])
        if len(seqs) == 2:
            assert contents(registry, "a", 2)[1] == files(2)
        assert publish(registry, "a", files(3))
        assert contents(registry, "a", len(seqs) + 1)[1] == files(3), "the next publisher goes on"
        assert check(store, ring.trusted, CheckOptions(keyring=ring, threads=1)).harmful == ()

    calls = at_each_call(
        prepare, lambda store: publish(Registry(store, ring, "default", STORE_ID), "a", files(2)), judge
    )
    print(f"\na publish crashed at each of {calls} store calls")
    assert calls >= 8


def test_a_move_of_an_alias_that_dies_at_any_call_moved_or_did_not(ring: KeyRing) -> None:
    def prepare() -> MemoryStore:
        store = new_store()
        registry = Registry(store, ring, "default", STORE_ID)
        publish(registry, "a", files(1))
        publish(registry, "a", files(2))
        registry.set_alias(RUN, "a", "champion", 1)
        return store

    def judge(store: MemoryStore) -> None:
        registry = Registry(store, ring, "default", STORE_ID)
        now = registry.aliases(RUN, "a")["champion"]
        assert now in (1, 2)
        registry.set_alias(RUN, "a", "champion", 3 - now, expect=now)

    calls = at_each_call(
        prepare, lambda store: Registry(store, ring, "default", STORE_ID).set_alias(RUN, "a", "champion", 2), judge
    )
    print(f"\na move of an alias crashed at each of {calls} store calls")
    assert calls >= 4


def test_a_collection_that_dies_at_any_call_is_finished_by_the_next(ring: KeyRing) -> None:
    """Left by a dead publisher: blobs and a lease. The last of three cycles removes them."""
    clock = Clock()

    def collect(store: Hooked | MemoryStore) -> None:
        Collector(store, ring.trusted, clock=clock, threads=1).collect(apply=True)

    def prepare() -> MemoryStore:
        clock.__init__()
        store = new_store()
        registry = Registry(store, ring, "default", STORE_ID)
        publish(registry, "a", files(1))
        registry.begin(RUN, "a").seal_files(files(2))
        for _ in range(5):
            collect(store)
            clock.pass_hours(25)
        dead = registry.begin(RUN, "b")
        dead.seal_files(files(3))
        dead.release()
        for _ in range(2):
            collect(store)
            clock.pass_hours(25)
        return store

    def judge(store: MemoryStore) -> None:
        registry = Registry(store, ring, "default", STORE_ID)
        assert contents(registry, "a", 1)[1] == files(1)
        needed = {name for name in store.list("") if name.startswith(("r/", "lightmill"))}
        for _ in range(14):
            collect(store)
            clock.pass_hours(25)
        assert check(store, ring.trusted, CheckOptions(keyring=ring, threads=1)).findings == ()
        assert needed < set(store.list("")) and not list(store.list("q/")) and not list(store.list("l/"))

    calls = at_each_call(prepare, collect, judge)
    print(f"\na collection crashed at each of {calls} store calls")
    assert calls >= 12


def test_a_backup_that_dies_at_any_call_is_whole_and_goes_on(ring: KeyRing) -> None:
    source = new_store()
    registry = Registry(source, ring, "default", STORE_ID)
    for n in range(2):
        publish(registry, "a", files(n))
    registry.set_alias(RUN, "a", "champion", 1)
    everything = set(source.list(""))

    def judge(target: MemoryStore) -> None:
        if list(target.list("lightmill.json")):
            assert check(target, ring.trusted, CheckOptions(keyring=ring, threads=1)).harmful == ()
        report = backup(source, target, ring.trusted, threads=1)
        assert everything == {name for name in target.list("") if not name.startswith("probe/")}
        assert report.findings == ()

    calls = at_each_call(MemoryStore, lambda target: backup(source, target, ring.trusted, threads=1), judge)
    print(f"\na backup crashed at each of {calls} calls of its target")
    assert calls > 2 * len(everything) - 2


# -- many at once --------------------------------------------------------------------------


def race(tmp_path: Path, ring: KeyRing, rounds: int) -> None:
    """8 threads and 8 processes publish versions of one asset as fast as they can."""
    root = tmp_path / "store"
    initialize_store(LocalStore(root, fsync=lambda _: None))
    registry = open_registry(root, ring.path, fsync=False)
    pipes = []
    for number in range(8):
        ours, theirs = processes.Pipe(duplex=False)
        arguments = (root, ring.path, number * rounds, rounds, theirs)
        processes.Process(target=publish_rounds, args=arguments, daemon=True).start()
        theirs.close()
        pipes.append(ours)

    def rounds_of(number: int) -> list[str]:
        mine = open_registry(root, ring.path, fsync=False)
        return [publish(mine, NAME, files(number * rounds + n)) for n in range(rounds)]

    with ThreadPoolExecutor(8) as pool:
        won = [digest for found in pool.map(rounds_of, range(8, 16)) for digest in found]
    won += [digest for pipe in pipes for digest in pipe.recv()]
    seqs = numbers(registry, NAME)
    assert seqs == list(range(1, 16 * rounds + 1)), "one winner for every number, no gaps"
    log = SignedLog(registry.store, ring, "default", registry.store_id)
    digests = [log.commit(registry.mid(RUN, NAME), seq, what=str(seq))[1] for seq in seqs]
    assert sorted(digests) == sorted(won) and len(set(won)) == len(won)
    opened = {
        registry.open(VersionId(kind=RUN, name=NAME, seq=s, digest=d)).manifest.seq
        for s, d in zip(seqs, digests, strict=True)
    }
    assert opened == set(seqs)
    print(f"\n16 publishers (8 threads, 8 processes) x {rounds} rounds: {len(seqs)} versions, one winner each, no gaps")


def test_sixteen_publishers_share_the_numbers(tmp_path: Path, ring: KeyRing) -> None:
    race(tmp_path, ring, 2)


@pytest.mark.slow
def test_sixteen_publishers_share_the_numbers_for_two_hundred_rounds(tmp_path: Path, ring: KeyRing) -> None:
    race(tmp_path, ring, 200)
