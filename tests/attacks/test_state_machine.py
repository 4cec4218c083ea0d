"""Four writers on one store, with crashes at any store call, against a model that fits on a page.

The model knows each asset's versions by digest and content, which are deleted, and where aliases point. An
operation that crashed may have happened or not; nothing else may be seen, and afterwards everybody agrees.
"""

from __future__ import annotations

import secrets
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from lightmill.catalog import Catalog
from lightmill.errors import ConflictError, NotFoundError
from lightmill.records.references import VersionId
from lightmill.registry import Registry
from lightmill.registry.care import CheckOptions, Collector, backup, check
from lightmill.registry.names import STORE_FILE, envelope_name, envelopes_prefix, last_number, tombstone_name
from lightmill.registry.signed import SignedLog
from lightmill.storage import BlobStore, MemoryStore
from lightmill.vault import KeyRing, rewrap_envelope
from tests.attacks.stage import RUN, Clock, Crash, CrashAt, Hooked, bury, files, publish
from tests.attacks.test_collection import STORE_ID, new_store

WRITERS = 4
NAMES = ("one", "two")
ALIASES = ("champion", "candidate")

writers = st.integers(0, WRITERS - 1)
assets = st.sampled_from(NAMES)
crashes = st.none() | st.integers(1, 40)
done: Counter[str] = Counter()


@dataclass
class Asset:
    """What the model knows of one asset; `versions[n]` is (digest, content) of version n + 1."""

    versions: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    deleted: set[int] = field(default_factory=set)
    aliases: dict[str, int] = field(default_factory=dict)


class Writer:
    """One process: a registry on a store whose calls go through a hook."""

    def __init__(self, machine: RegistryMachine) -> None:
        self.hook: Callable[[str, str], None] | None = None
        self.store = self.reach(machine.store)
        self.registry = machine.registry(self.store)

    def reach(self, store: BlobStore) -> Hooked:
        return Hooked(store, lambda method, name: self.hook(method, name) if self.hook else None)


class RegistryMachine(RuleBasedStateMachine):
    ring: KeyRing
    folder: Path
    empty_catalog: Path

    @initialize()
    def begin(self) -> None:
        self.store: MemoryStore = new_store()
        self.clock = Clock()
        self.model = {name: Asset() for name in NAMES}
        self.number = 0
        self.copy = MemoryStore()
        self.writers = [Writer(self) for _ in range(WRITERS)]
        for name in NAMES:
            self.publish_now(0, name, None)

    # -- operations ------------------------------------------------------------------

    def registry(self, store: BlobStore | None = None) -> Registry:
        return Registry(store or self.store, self.ring, "default", STORE_ID)

    def attempt(self, what: str, writer: int, act: Callable[[Writer], object], crash: int | None) -> bool:
        """Act, and die at the n-th store call if there is one; whether it came to its end."""
        hook = CrashAt(crash) if crash else None
        self.writers[writer].hook = hook
        try:
            act(self.writers[writer])
        except Crash:
            done[f"{what}, crashed"] += 1
            self.writers[writer] = Writer(self)  # the process is started again
            return False
        finally:
            self.writers[writer].hook = None
        done[what] += 1
        return True

    @rule(writer=writers, name=assets, crash=crashes)
    def publish(self, writer: int, name: str, crash: int | None) -> None:
        self.publish_now(writer, name, crash)

    def publish_now(self, writer: int, name: str, crash: int | None) -> None:
        self.number += 1
        content = files(self.number)
        self.attempt("publish", writer, lambda me: publish(me.registry, name, content), crash)
        self.adopt(name, [content])

    @rule(writer=writers, name=assets, other=assets, at=st.integers(1, 12), crash=crashes)
    def publish_while_another_does(self, writer: int, name: str, other: str, at: int, crash: int | None) -> None:
        """A second writer publishes as a whole between two store calls of the first."""
        first, second = files(self.number + 1), files(self.number + 2)
        self.number += 2
        calls = 0

        def hook(method: str, object_name: str) -> None:
            nonlocal calls
            calls += 1
            if calls == at:
                publish(self.writers[writer - 1].registry, other, second)
            if crash and calls >= at + crash:
                raise Crash

        def act(me: Writer) -> None:
            me.hook = hook
            publish(me.registry, name, first)

        self.attempt("publish, interleaved", writer, act, None)
        for asset in {name, other}:
            self.adopt(asset, [first, second])

    def adopt(self, name: str, candidates: list[dict[str, bytes]]) -> None:
        """Read what is new and check that it is one of what was being published, whole."""
        asset = self.model[name]
        registry = self.registry()
        latest = registry.latest(RUN, name) if asset.versions or self.any_record(name) else 0
        assert len(asset.versions) <= latest <= len(asset.versions) + len(candidates)
        for seq in range(len(asset.versions) + 1, latest + 1):
            digest, content = self.read(name, seq)
            assert content in candidates, f"{name}@{seq} is torn"
            asset.versions.append((digest, content))

    def any_record(self, name: str) -> bool:
        return any(self.store.list(f"r/{self.registry().mid(RUN, name)}/v/"))

    def read(self, name: str, seq: int) -> tuple[str, dict[str, bytes]]:
        registry = self.registry()
        log = SignedLog(self.store, self.ring, "default", STORE_ID)
        _, digest = log.commit(registry.mid(RUN, name), seq, what=f"{name}@{seq}")
        opened = registry.open(VersionId(kind=RUN, name=name, seq=seq, digest=digest))
        return digest, {file.path: opened.read_file(file.path) for file in opened.manifest.files}

    @rule(writer=writers, name=assets, alias=st.sampled_from(ALIASES), pick=st.integers(0, 50), crash=crashes)
    def move_alias(self, writer: int, name: str, alias: str, pick: int, crash: int | None) -> None:
        asset = self.model[name]
        there = [seq for seq in range(1, len(asset.versions) + 1) if seq not in asset.deleted]
        if not there:
            return
        seq = there[pick % len(there)]
        before = asset.aliases.get(alias, 0)
        ended = self.attempt(
            "alias", writer, lambda me: me.registry.set_alias(RUN, name, alias, seq, expect=before), crash
        )
        now = self.registry().aliases(RUN, name).get(alias, 0)
        assert now == seq if ended else now in (before, seq)
        if now:
            asset.aliases[alias] = now

    @rule(name=assets, alias=st.sampled_from(ALIASES))
    def move_alias_with_an_old_expectation(self, name: str, alias: str) -> None:
        asset = self.model[name]
        if not asset.versions or 1 in asset.deleted:
            return
        wrong = asset.aliases.get(alias, 0) + 1
        with pytest.raises(ConflictError):
            self.registry().set_alias(RUN, name, alias, 1, expect=wrong)
        done["alias, refused"] += 1

    @rule(writer=writers, name=assets, pick=st.integers(0, 50), crash=crashes)
    def delete(self, writer: int, name: str, pick: int, crash: int | None) -> None:
        asset = self.model[name]
        kept = set(asset.aliases.values())
        there = [s for s in range(1, len(asset.versions) + 1) if s not in asset.deleted and s not in kept]
        if not there:
            return
        seq = there[pick % len(there)]
        mid = self.registry().mid(RUN, name)
        id = VersionId(kind=RUN, name=name, seq=seq, digest=asset.versions[seq - 1][0])
        ended = self.attempt("delete", writer, lambda me: bury(me.store, self.ring, STORE_ID, id), crash)
        found = tombstone_name(mid, seq) in set(self.store.list("r/"))
        assert found or not ended
        if found:
            asset.deleted.add(seq)

    @rule(writer=writers, hours=st.sampled_from([0, 5, 25, 200]), crash=crashes)
    def collect(self, writer: int, hours: int, crash: int | None) -> None:
        self.clock.pass_hours(hours)

        def act(me: Writer) -> None:
            Collector(me.store, self.ring.trusted, clock=self.clock, threads=1).collect(apply=True)

        self.attempt("gc", writer, act, crash)

    @rule(writer=writers, name=assets, pick=st.integers(0, 50), new_key=st.booleans(), crash=crashes)
    def rotate(self, writer: int, name: str, pick: int, new_key: bool, crash: int | None) -> None:
        """Wrap the key of one version again: rot + 1 first, then the older ones go."""
        asset = self.model[name]
        there = [seq for seq in range(1, len(asset.versions) + 1) if seq not in asset.deleted]
        if not there:
            return
        seq = there[pick % len(there)]
        if new_key and len(self.ring.root_key_ids) < 8:
            self.ring.add_root_key()
        mid = self.registry().mid(RUN, name)
        context = {"store": STORE_ID, "workspace": "default", "mid": mid, "seq": str(seq)}
        opened = self.registry().open(VersionId(kind=RUN, name=name, seq=seq, digest=asset.versions[seq - 1][0]))

        def act(me: Writer) -> None:
            store = me.store
            envelopes = sorted(store.list(envelopes_prefix(mid, seq)))
            rewrapped, _ = rewrap_envelope(store.get(envelopes[-1]), self.ring.provider, context)
            rot = last_number(envelopes[-1]) + 1
            store.create(envelope_name(mid, seq, rot), rewrapped)
            for old in envelopes:
                store.delete(old)

        assert opened is not None
        if len(list(self.store.list(envelopes_prefix(mid, seq)))) == 1:  # a loser's envelope may lie beside it
            self.attempt("rotate", writer, act, crash)

    @rule(writer=writers, crash=st.none() | st.integers(1, 80))
    def copy_away(self, writer: int, crash: int | None) -> None:
        def act(me: Writer) -> None:
            backup(me.store, me.reach(self.copy), self.ring.trusted, threads=1)

        self.attempt("backup", writer, act, crash)
        if STORE_FILE in set(self.copy.list("")):
            assert check(self.copy, self.ring.trusted, CheckOptions(keyring=self.ring, threads=1)).harmful == ()

    @rule()
    def rebuild(self) -> None:
        """An empty catalog, filled from the store alone, lists what the model knows."""
        path = Path(shutil.copy(self.empty_catalog, self.folder / f"{secrets.token_hex(4)}.db"))
        with Catalog.open(f"sqlite:///{path}") as catalog:
            Registry(self.store, self.ring, "default", STORE_ID, catalog).heal()
            for name, asset in self.model.items():
                mid = self.registry().mid(RUN, name)
                alive = set(range(1, len(asset.versions) + 1)) - asset.deleted
                assert alive <= set(catalog.versions.recorded(mid)) <= set(range(1, len(asset.versions) + 1))
                for alias, seq in asset.aliases.items():
                    mark = catalog.marks.get(mid, f"a/{alias}")
                    assert mark is not None and self.registry().aliases(RUN, name)[alias] == seq
        for left in self.folder.glob(f"{path.name}*"):
            left.unlink()
        done["rebuild"] += 1

    # -- what always holds -------------------------------------------------------------

    @invariant()
    def everybody_reads_what_the_model_says(self) -> None:
        done["steps"] += 1
        if not hasattr(self, "model"):
            return
        for name, asset in self.model.items():
            if not asset.versions:
                continue
            for seq in {1, len(asset.versions)} - asset.deleted:
                assert self.read(name, seq) == asset.versions[seq - 1]
            assert self.registry().aliases(RUN, name) == asset.aliases

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        report = check(self.store, self.ring.trusted, CheckOptions(keyring=self.ring, threads=1))
        assert report.harmful == ()
        for name, asset in self.model.items():
            for seq in set(range(1, len(asset.versions) + 1)) - asset.deleted:
                assert self.read(name, seq) == asset.versions[seq - 1]
            if not asset.versions:
                with pytest.raises(NotFoundError):
                    SignedLog(self.store, self.ring, "default", STORE_ID).commit("a" * 26, 1, what=name)


def run(tmp_path: Path, examples: int, steps: int) -> None:
    done.clear()
    RegistryMachine.ring = KeyRing.create(tmp_path / "keys" / "ring.json")
    RegistryMachine.folder = tmp_path
    RegistryMachine.empty_catalog = tmp_path / "empty.db"
    with Catalog.open(f"sqlite:///{RegistryMachine.empty_catalog}") as catalog:
        catalog.migrate()
    run_state_machine_as_test(
        RegistryMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    steps_done = done.pop("steps")
    print(f"\n{steps_done} steps of {WRITERS} writers against the model: {dict(sorted(done.items()))}")
    assert steps_done >= examples * steps // 2


def test_four_writers_agree_with_a_simple_model(tmp_path: Path) -> None:
    run(tmp_path, examples=12, steps=50)


@pytest.mark.slow
def test_four_writers_agree_with_a_simple_model_for_ten_thousand_steps(tmp_path: Path) -> None:
    run(tmp_path, examples=220, steps=50)
