"""Collection against publishing, deleting and other collectors, in many orders, on a virtual clock."""

from __future__ import annotations

import hashlib
import json
import random
from contextlib import suppress

import pytest

from lightmill.errors import ConflictError, IntegrityError, NotFoundError
from lightmill.records.assets import CommitRecord
from lightmill.records.references import Reference, VersionId
from lightmill.registry import Content, Registry
from lightmill.registry.care import CheckOptions, Collector, check, verify_reused
from lightmill.registry.names import STORE_FILE, blob_name, manifest_name, quarantine_name, record_name
from lightmill.storage import BlobStore, MemoryStore
from lightmill.vault import KeyRing, canonical_json, decode_base64
from tests.attacks.stage import RUN, Clock, Hooked, Stage, bury, files, publish

STORE_ID = "0" * 32
NAMES = ("one", "two")
LONGEST_PUBLISH_HOURS = 23


def new_store() -> MemoryStore:
    store = MemoryStore()
    store.create(STORE_FILE, canonical_json({"format": "lightmill-store", "store": STORE_ID, "minimum_reader": 1}))
    return store


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    return KeyRing.create(tmp_path_factory.mktemp("ring") / "ring.json")


class Witness:
    """Sees every change of the store and knows, without the code under test, what is needed."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.needs: dict[str, set[str]] = {}
        self.once_dead: set[str] = set()
        self.violations: list[str] = []
        self.came_back = 0
        self.deletions = 0

    def live(self) -> set[str]:
        return {name for needs in self.needs.values() for name in needs}

    def before(self, method: str, name: str) -> None:
        if method == "delete" and name[:2] in ("b/", "m/") and name in set(self.store.list(name)):
            self.deletions += 1
            if name in self.live():
                self._judge(name, f"{name} was deleted")

    def after(self, name: str, data: bytes) -> None:
        parts = name.split("/")
        if parts[2:3] == ["v"]:
            record = CommitRecord.model_validate(json.loads(decode_base64(json.loads(data)["payload"])))
            self.needs[f"{record.mid}@{record.seq}"] = {
                manifest_name(record.manifest.id),
                *(blob_name(blob.id) for blob in record.blobs),
            }
            for needed in self.needs[f"{record.mid}@{record.seq}"]:
                if needed not in set(self.store.list(needed)):
                    self._judge(needed, f"{needed} was missing at the commit")
        elif parts[2:3] == ["t"]:
            gone = self.needs.pop(f"{parts[1]}@{int(parts[3])}")
            self.once_dead |= gone - self.live()

    def _judge(self, name: str, what: str) -> None:
        """A reused blob of a deleted version may be away for a moment, if it lies in quarantine."""
        if name in self.once_dead and quarantine_name(name) in set(self.store.list(quarantine_name(name))):
            self.came_back += 1
        else:
            self.violations.append(what)


class Watched(Hooked):
    """A store whose changes a witness sees."""

    def __init__(self, inner: MemoryStore, witness: Witness) -> None:
        super().__init__(inner, witness.before)
        self._witness = witness

    def create(self, name: str, data: object) -> None:
        super().create(name, data)  # pyright: ignore[reportArgumentType]
        self._witness.after(name, bytes(data))  # pyright: ignore[reportArgumentType]


class Play:
    """One schedule: publishers, reusers, deleters, collectors and time, all at once."""

    def __init__(self, seed: int, ring: KeyRing, *, leases: bool = True, in_time: bool = True) -> None:
        self.ring = ring
        self.seed = seed
        self.random = random.Random(seed)
        self.clock = Clock()
        store = new_store()
        self.witness = Witness(store)
        self.store = Watched(store, self.witness)
        self.stage = Stage(seed, self.store)  # pyright: ignore[reportArgumentType]
        self.leases = leases
        self.in_time = in_time
        self.started: dict[int, object] = {}
        self.removed = self.cycles = self.collectors = 0
        self.lost: list[str] = []

    def registry(self, store: BlobStore) -> Registry:
        return Registry(store, self.ring, "default", STORE_ID)

    def run(self) -> None:
        pick = self.random
        for name in NAMES:
            publish(self.registry(self.store), name, files(pick.randrange(1 << 20)))
        publish(self.registry(self.store), NAMES[0], files(pick.randrange(1 << 20)))
        self.deleting(NAMES[0])(self.store)
        for _ in range(2):  # what was deleted is due from the beginning
            Collector(self.store, self.ring.trusted, clock=self.clock, threads=1).collect(apply=True)
            self.clock.pass_hours(25)
        for n in range(4):
            dies = pick.randrange(1, 20) if pick.random() < 0.25 else None
            act = self.publish if pick.random() < 0.5 else self.reuse
            self.stage.enter(self.timed(n, act, pick.choice(NAMES), pick.randrange(1 << 20)), dies_at=dies)
        for _ in range(2):
            self.stage.enter(self.deleting(pick.choice(NAMES)))
        for _ in range(2):
            self.stage.enter(self.collecting(4), dies_at=pick.randrange(20, 200) if pick.random() < 0.3 else None)
        self.stage.enter(self.passing(25 if self.in_time else 100))
        self.stage.play()
        self.settle()

    # -- actors -----------------------------------------------------------------

    def timed(self, n, act, name, number):
        def run(store: BlobStore) -> None:
            store.head(STORE_FILE)  # somebody else may move first
            self.started[n] = self.clock.time
            try:
                act(store, name, number)
            finally:
                del self.started[n]

        return run

    def publish(self, store: BlobStore, name: str, number: int) -> None:
        registry = self.registry(store)
        draft = registry.begin(RUN, name)
        if not self.leases:
            draft.release()
        sealed = draft.seal_files(files(number))
        for _ in range(self.random.randrange(4)):
            store.head(STORE_FILE)  # slow
        until = self.cycles + 5
        while not self.in_time and self.cycles < until and self.collectors:
            store.head(STORE_FILE)  # far too slow
        registry.commit(draft, Content(files=sealed.files, blobs=sealed.blobs))

    def reuse(self, store: BlobStore, name: str, number: int) -> None:
        """A version that names the blobs of the newest one, deleted or not, and one of its own."""
        registry = self.registry(store)
        draft = registry.begin(RUN, name)
        try:
            parent = registry.open(registry.resolve(RUN, Reference(name=name))).manifest
        except (IntegrityError, NotFoundError):
            return  # collected already: nothing to reuse
        sealed = draft.seal_files({"own.txt": b"%d" % number})
        content = Content(files=(*parent.files, *sealed.files), blobs=(*parent.blobs, *sealed.blobs))
        registry.commit(draft, content)
        self.lost += verify_reused(store, [blob.id for blob in parent.blobs], threads=1)

    def deleting(self, name: str):
        def act(store: BlobStore) -> None:
            registry = self.registry(store)
            mid, seq = registry.mid(RUN, name), registry.latest(RUN, name)
            digest = hashlib.sha256(store.get(record_name(mid, seq))).hexdigest()
            bury(store, self.ring, STORE_ID, VersionId(kind=RUN, name=name, seq=seq, digest=digest))

        return act

    def collecting(self, cycles: int):
        def act(store: BlobStore) -> None:
            try:
                for _ in range(cycles):
                    self.collect(store)
            finally:
                self.collectors -= 1

        self.collectors += 1
        return act

    def collect(self, store: BlobStore) -> None:
        for _ in range(self.random.randrange(12)):
            store.head(STORE_FILE)  # the others move
        self.clock.pass_hours(0 if self.in_time else 25)
        self.cycles += 1
        collector = Collector(store, self.ring.trusted, clock=self.clock, threads=1)
        with suppress(ConflictError):  # another collector was faster
            self.removed += len(collector.collect(apply=True).removed)

    def passing(self, steps: int):
        def act(store: BlobStore) -> None:
            for _ in range(steps):
                store.head(STORE_FILE)
                hours = self.random.choice((1, 5, 12, 25, 25, 100))
                if self.in_time:
                    for start in self.started.values():
                        left = LONGEST_PUBLISH_HOURS - (self.clock.time - start).total_seconds() / 3600  # pyright: ignore
                        hours = min(hours, max(left, 0))
                self.clock.pass_hours(hours)

        return act

    # -- the end -------------------------------------------------------------------

    def settle(self) -> None:
        """Look whether all that is needed is there, after another cycle; in some plays after all that is due went."""
        long = self.seed % 10 == 0
        for _ in range(6 if long else 1):
            report = Collector(self.store, self.ring.trusted, clock=self.clock, threads=1).collect(apply=True)
            self.removed += len(report.removed)
            self.clock.pass_hours(25)
        live = self.witness.live()
        there = set(self.store.list(""))
        self.witness.violations += [f"{name} is lost" for name in sorted(live - there)]
        garbage = {name for name in there if name[:2] in ("b/", "m/")} - live
        if long and self.leases and garbage:
            self.witness.violations.append(f"{len(garbage)} objects were never collected")
        self.witness.violations += [f"{id} was given up" for id in self.lost]


def run_schedules(ring: KeyRing, count: int, **options: bool) -> list[Play]:
    plays = []
    for seed in range(count):
        play = Play(seed, ring, **options)
        play.run()
        plays.append(play)
    return plays


def tell(plays: list[Play]) -> None:
    print(
        f"\n{len(plays)} schedules of collection against publishing: {sum(p.stage.steps for p in plays)} store calls, "
        f"{sum(p.witness.deletions for p in plays)} deletions, {sum(p.removed for p in plays)} objects collected, "
        f"{sum(p.witness.came_back for p in plays)} brought back for a reuse, "
        f"{sum(len(p.witness.violations) for p in plays)} needed objects deleted"
    )


def judge(plays: list[Play]) -> None:
    tell(plays)
    assert {p.seed: p.witness.violations for p in plays if p.witness.violations} == {}
    assert sum(p.removed for p in plays) > len(plays) // 4, "the schedules collect something"


def test_no_needed_object_is_ever_deleted(ring: KeyRing) -> None:
    judge(run_schedules(ring, 100))


@pytest.mark.slow
def test_no_needed_object_is_ever_deleted_in_ten_thousand_schedules(ring: KeyRing) -> None:
    judge(run_schedules(ring, 10_000))


def test_the_schedules_would_find_a_collector_that_ignores_leases(ring: KeyRing) -> None:
    """Publishers without leases, and longer at it than the grace period, do lose objects: the test can see."""
    plays = run_schedules(ring, 20, leases=False, in_time=False)
    tell(plays)
    assert any(p.witness.violations for p in plays)


def test_what_survived_a_schedule_opens(ring: KeyRing) -> None:
    for play in run_schedules(ring, 5):
        report = check(play.store, ring.trusted, CheckOptions(keyring=ring, threads=1))
        assert report.harmful == ()
