"""Rotation: envelopes only, resumable after a kill at any point, unseen by readers; and rekeying to the bottom."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
import torch

from lightmill.datasets.parquet import read_encrypted
from lightmill.errors import ConflictError, IntegrityError, RequestError
from lightmill.records.references import AssetKind, Reference
from lightmill.registry import names
from lightmill.registry.envelopes import all_envelopes
from lightmill.registry.erasure import KeyCare
from lightmill.registry.rekeying import rekey
from lightmill.registry.rotation import Rotation, key_use
from lightmill.storage import BlobStore, LocalStore
from lightmill.vault import KeyRing, new_key, read_envelope_head, seal_envelope, workspace_scope
from lightmill.vault.receipts import KeyAction
from lightmill.wiring.operations.keys import reseal_parquet
from tests.attacks.scene import publish_dataset, table
from tests.unit.registry.world import MODEL, FailingStore, World, open_latest, publish, read, weights

if TYPE_CHECKING:
    from typing_extensions import Buffer


def rotation(world: World, store: BlobStore | None = None, ring: KeyRing | None = None) -> Rotation:
    return Rotation(store or world.store, ring or world.ring, world.store_id)


def envelopes(world: World) -> list[str]:
    return [name for version in all_envelopes(world.store) for name in version.names]


def key_ids(world: World) -> set[str]:
    return {read_envelope_head(world.store.get(name)).key_id for name in envelopes(world)}


def digests(world: World) -> dict[str, str]:
    """Every object but the envelopes, by the digest of its bytes."""
    found = {}
    for name in world.names():
        if name.split("/")[2:3] != ["e"]:
            found[name] = hashlib.sha256(world.store.get(name)).hexdigest()
    return found


def check_all(world: World, ring: KeyRing | None = None) -> None:
    for n in (1, 2, 3):
        registry = world.new_registry(ring=ring)
        id = registry.resolve(MODEL, Reference(name="m", selector=str(n)))
        for name, value in read(registry, id).items():
            assert torch.equal(value, weights(n)[name])


@pytest.fixture
def filled(world: World) -> World:
    for n in (1, 2, 3):
        publish(world.registry, state=weights(n))
    return world


def test_rotation_moves_envelopes_and_leaves_every_other_byte(filled: World) -> None:
    before, old = digests(filled), filled.ring.provider.key_id
    new = filled.ring.add_root_key()
    seen: list[tuple[int, int]] = []
    done = rotation(filled).run(progress=lambda n, of: seen.append((n, of)))
    assert (done.rewrapped, done.current, done.problems) == (3, 0, ())
    assert seen[:3] == [(1, 3), (2, 3), (3, 3)]
    assert digests(filled) == before and key_ids(filled) == {new} != {old}
    assert [name[-6:] for name in envelopes(filled)] == ["000001"] * 3
    check_all(filled)
    again = rotation(filled).run()
    assert (again.rewrapped, again.current) == (0, 3)


def test_the_old_key_opens_nothing_that_is_left(filled: World) -> None:
    ring = KeyRing.open(filled.ring.path)
    old = ring.path.read_bytes()
    filled.ring.add_root_key()
    rotation(filled).run()
    stolen = filled.folder / "stolen.json"
    stolen.write_bytes(old)
    stolen.chmod(0o600)
    with pytest.raises(IntegrityError, match="does not hold"):
        open_latest(filled.new_registry(ring=KeyRing.open(stolen)))


class DyingStore(FailingStore):
    """Kills its own process at the n-th call that changes the store, before or after the change."""

    def __init__(self, inner: BlobStore, fail_at: int, *, after: bool) -> None:
        super().__init__(inner, 0)
        self.calls, self.die_at, self.late = 0, fail_at, after

    def _step(self, change: object) -> None:
        self.calls += 1
        if self.calls == self.die_at and not self.late:
            os.kill(os.getpid(), signal.SIGKILL)
        change()  # type: ignore[operator]
        if self.calls == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def create(self, name: str, data: Buffer) -> None:
        self._step(lambda: self.inner.create(name, data))

    def delete(self, name: str) -> None:
        self._step(lambda: self.inner.delete(name))


def in_child(work: object) -> int:
    """Run `work` in a forked process and return how it ended."""
    child = os.fork()
    if child == 0:
        try:
            work()  # type: ignore[operator]
        except BaseException:  # noqa: BLE001 - the child must not run on as a second pytest
            os._exit(3)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_change_it_can_be_read_and_resumed(filled: World, after: bool) -> None:
    before, kills, ended = digests(filled), 0, -1
    while ended != 0:
        filled.ring.add_root_key()
        store = DyingStore(filled.store, kills + 1, after=after)
        ended = in_child(lambda store=store: rotation(filled, store).run())
        check_all(filled)
        if ended:
            assert os.WTERMSIG(ended) == signal.SIGKILL
            kills += 1
        rotation(filled).run()
        assert key_ids(filled) == {filled.ring.provider.key_id} and len(envelopes(filled)) == 3
        check_all(filled)
        assert digests(filled) == before
    print(f"rotation: {kills} kills {'after' if after else 'before'} a change of the store; always readable, resumed")
    assert kills == 6


@pytest.mark.slow
def test_a_thousand_kills_of_a_rotation(filled: World) -> None:
    dice, before, kills = random.Random(11), digests(filled), 0
    for _ in range(1000):
        if dice.random() < 0.5 or key_ids(filled) == {filled.ring.provider.key_id}:
            filled.ring.add_root_key()
        store = DyingStore(filled.store, dice.randint(1, 7), after=dice.random() < 0.5)
        ended = in_child(lambda store=store: rotation(filled, store).run())
        kills += ended == signal.SIGKILL
        assert ended in (0, signal.SIGKILL)
        check_all(filled)
    rotation(filled).run()
    assert key_ids(filled) == {filled.ring.provider.key_id} and len(envelopes(filled)) == 3
    assert digests(filled) == before
    print(f"rotation: {kills} kills in 1000 rounds; every version readable after each, no blob changed")
    assert kills > 500


def test_readers_notice_nothing(filled: World) -> None:
    stop, errors, reads = threading.Event(), [], [0]

    def reader() -> None:
        try:
            while not stop.is_set():
                check_all(filled, KeyRing.open(filled.ring.path))
                reads[0] += 1
        except Exception as exc:  # noqa: BLE001
            errors.append(exc)

    threads = [threading.Thread(target=reader) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(12):
        filled.ring.add_root_key()
        rotation(filled).run()
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == [] and reads[0] > 0
    print(f"rotation: 12 beside {reads[0]} rounds of readers")


class Interposed(FailingStore):
    """Runs something just before a call: the worst moment for another process to act."""

    def __init__(self, inner: BlobStore, moment: str) -> None:
        super().__init__(inner, 0)
        self.moment, self.act = moment, None

    def _now(self, call: str, name: str) -> None:
        if self.act and call == self.moment and "/e/" in name:
            act, self.act = self.act, None
            act()

    def get(self, name: str) -> bytes:
        self._now("get", name)
        return self.inner.get(name)

    def create(self, name: str, data: Buffer) -> None:
        self._now("create", name)
        self.inner.create(name, data)

    def list(self, prefix: str) -> Iterator[str]:
        found = list(self.inner.list(prefix))
        self._now("list", prefix)
        return iter(found)


@pytest.mark.parametrize("moment", ["list", "get"])
def test_a_reader_that_listed_before_the_rotation_reads_after_it(filled: World, moment: str) -> None:
    store = Interposed(filled.store, moment)
    registry = filled.new_registry(store=store)
    id = registry.resolve(MODEL, Reference(name="m"))
    filled.ring.add_root_key()
    store.act = lambda: rotation(filled).run()
    registry.open(id)
    assert store.act is None


@pytest.mark.parametrize("moment", ["list", "get", "create"])
def test_two_rotations_at_once_agree(filled: World, moment: str) -> None:
    filled.ring.add_root_key()
    store = Interposed(filled.store, moment)
    store.act = lambda: rotation(filled).run()
    rotation(filled, store).run()
    rotation(filled).run()
    assert len(envelopes(filled)) == 3 and key_ids(filled) == {filled.ring.provider.key_id}
    check_all(filled)


def test_a_publisher_at_work_keeps_its_envelope(filled: World) -> None:
    """The envelope of an uncommitted version is its publisher's; the loser of a race may delete it by name."""
    mid = filled.registry.mid(MODEL, "m")
    context = {"store": filled.store_id, "workspace": "default", "mid": mid, "seq": "4"}
    mine = names.envelope_name(mid, 4, 0)
    filled.store.create(mine, seal_envelope(new_key(), filled.ring.provider, context))
    filled.ring.add_root_key()
    rotation(filled).run()
    assert mine in envelopes(filled)
    assert publish(filled.registry, state=weights(4)).id.seq == 4
    assert mine in envelopes(filled)
    done = rotation(filled).run()
    assert mine not in envelopes(filled) and done.problems == ()
    open_latest(filled.registry)


def test_drafts_begun_before_a_rotation_are_joined_and_committed_after(filled: World) -> None:
    draft = filled.registry.begin(MODEL, "m")
    filled.ring.add_root_key()
    rotation(filled).run()
    joined = filled.new_registry().join(draft.id)
    assert joined.key == draft.key
    use = key_use(filled.store)
    assert sum(use.leases.values()) == 1 and sum(use.versions.values()) == 3


def test_a_damaged_envelope_is_named_and_left_and_the_others_move(filled: World) -> None:
    victim = envelopes(filled)[1]
    data = json.loads(filled.store.get(victim))
    filled.path(victim).write_bytes(
        json.dumps(data | {"mac": "0" * 64}, sort_keys=True, separators=(",", ":")).encode()
    )
    damaged = filled.store.get(victim)
    filled.ring.add_root_key()
    done = rotation(filled).run()
    assert done.rewrapped == 2 and len(done.problems) == 1 and victim in done.problems[0]
    assert filled.store.get(victim) == damaged


def test_rotate_makes_a_key_for_each_scope_and_a_receipt(filled: World) -> None:
    care = KeyCare(filled.store, filled.ring, filled.store_id)
    filled.ring.add_root_key(workspace_scope("default"))
    keys, done, receipt = care.rotate(progress=None)
    assert len(keys) == 2 and done.rewrapped == 3 and receipt.action is KeyAction.ROTATE
    assert key_ids(filled) == {filled.ring.provider.current(workspace_scope("default")).key_id}
    keys, done, _ = care.rotate(new_keys=False, progress=None)
    assert done.rewrapped == 0 and len(keys) == 2
    keys, done, _ = care.rotate(workspace="default", scope=workspace_scope("default"), progress=None)
    assert len(keys) == 1 and done.rewrapped == 3
    with pytest.raises(RequestError, match="isolate"):
        care.rotate(workspace="x", scope=workspace_scope("x"), progress=None)
    check_all(filled)


def test_an_old_key_is_destroyed_only_when_nothing_needs_it(filled: World) -> None:
    care = KeyCare(filled.store, filled.ring, filled.store_id)
    (first,) = filled.ring.root_keys
    with pytest.raises(ConflictError, match="rotate first"):
        care.destroy_key(first)
    filled.ring.add_root_key()
    old = next(key for key in filled.ring.root_keys if not key.current)
    with pytest.raises(ConflictError, match="3 versions and 0 open drafts"):
        care.destroy_key(old)
    care.rotate(new_keys=False, progress=None)
    receipt = care.destroy_key(old)
    assert receipt.action is KeyAction.DESTROY and receipt.keys[0].final == "now"
    check_all(filled, KeyRing.open(filled.ring.path))


def test_rekeying_publishes_the_same_content_under_new_keys(filled: World) -> None:
    old = open_latest(filled.registry)
    seen: list[tuple[int, int]] = []
    summary = rekey(filled.registry, old.id, reseal_parquet, lambda n, of: seen.append((n, of)))
    new = filled.registry.open(summary.id)
    assert summary.id.seq == 4 and seen[-1] == (len(new.manifest.blobs),) * 2
    assert new._key != old._key
    assert not {b.id for b in old.manifest.blobs} & {b.id for b in new.manifest.blobs}
    assert not {b.key for b in old.manifest.blobs} & {b.key for b in new.manifest.blobs}
    assert new.read_file("model.safetensors") == old.read_file("model.safetensors")
    assert new.manifest.model == old.manifest.model and new.manifest.provenance == old.manifest.provenance
    assert filled.catalog.versions.get(MODEL, "m", 4).id == summary.id
    check_all(filled)
    assert not list(filled.store.list("l/"))


def test_rekeying_a_dataset_keeps_tagged_columns_apart(world: World) -> None:
    from lightmill.datasets.parquet import write_encrypted
    from lightmill.records.assets import FileEntry
    from lightmill.registry import Content
    from tests.attacks.scene import dataset_card

    plain = table().append_column("features", pa.FixedSizeListArray.from_arrays(pa.array([1.0] * 6, pa.float32()), 2))
    draft = world.registry.begin(AssetKind.DATASET, "d")
    data = write_encrypted(plain, draft.subkey, {"ink": "personal", "features.list.element": "secret"})
    digest, size = draft.put_object(data)
    entry = FileEntry(path="train/0.parquet", size=size, sha256=digest, object=digest, rows=3, group="train")
    old = world.registry.open(world.registry.commit(draft, Content(files=(entry,), dataset=dataset_card())).id)
    new = world.registry.open(rekey(world.registry, old.id, reseal_parquet).id)
    (file,) = new.manifest.files
    assert file.object != digest and (file.path, file.rows, file.group) == (entry.path, 3, "train")
    for column, key in (("ink", "tag-0"), ("label", "data"), ("features", "tag-1")):
        asked: set[str] = set()

        def subkey(name: str, asked: set[str] = asked) -> bytes:
            asked.add(name)
            return new.subkey(name)

        found = read_encrypted(new.read_object(file), subkey, file.path, [column])
        assert found.column(column).equals(plain.column(column)) and key in asked - {"footer"}
    with pytest.raises(IntegrityError):
        read_encrypted(new.read_object(file), old.subkey, file.path)
    publish_dataset(world.registry, "d", table())


def test_rekeying_damaged_data_publishes_nothing(filled: World) -> None:
    old = open_latest(filled.registry)
    path = filled.path(names.blob_name(old.manifest.blobs[0].id))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError):
        rekey(filled.registry, old.id, reseal_parquet)
    assert filled.registry.latest(MODEL, "m") == 3 and not list(filled.store.list("l/"))


def test_a_store_that_fails_midway_is_finished_later(filled: World) -> None:
    filled.ring.add_root_key()
    with pytest.raises(Exception, match="went away"):
        rotation(filled, FailingStore(filled.store, 2)).run()
    check_all(filled)
    assert rotation(filled).run().rewrapped == 2
    assert isinstance(filled.store, LocalStore) and Path(filled.root).is_dir()
