"""Isolate and erase: after it nothing of the asset opens, with the ring and every copy of the store."""

from __future__ import annotations

import base64
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lightmill.errors import ConflictError, ErasedError, LightmillError, NotFoundError, RequestError
from lightmill.records.references import AssetKind, Reference
from lightmill.registry.envelopes import all_envelopes
from lightmill.registry.erasure import KeyCare, Subject
from lightmill.storage import BlobStore
from lightmill.vault import (
    Erasure,
    KeyRing,
    asset_scope,
    new_key,
    open_envelope,
    read_envelope_head,
    seal_envelope,
    workspace_scope,
)
from lightmill.vault.receipts import AuditTrail, KeyAction
from tests.attacks.scene import publish_dataset, table
from tests.unit.registry.test_rotation import DyingStore, in_child
from tests.unit.registry.world import MODEL, World, open_latest, publish, weights
from tests.unit.vault import reference


def subject(world: World, name: str = "m", kind: AssetKind = MODEL) -> Subject:
    mid = world.registry.mid(kind, name)
    return Subject(scope=asset_scope("default", mid), what=f"{kind} {name}", mid=mid, workspace="default")


def care(world: World, store: BlobStore | None = None) -> KeyCare:
    return KeyCare(store or world.store, KeyRing.open(world.ring.path), world.store_id)


@pytest.fixture
def two(world: World) -> World:
    for n in (1, 2):
        publish(world.registry, state=weights(n))
        publish(world.registry, "other", state=weights(n + 5))
    return world


def every_key(path: Path) -> list[bytes]:
    """Every 32-byte secret in a ring file, whatever it is for."""
    found: list[bytes] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for part in value.values():
                walk(part)
        elif isinstance(value, list):
            for part in value:
                walk(part)
        elif isinstance(value, str) and len(value) == 44:
            found.append(base64.b64decode(value))

    walk(json.loads(path.read_text()))
    assert found
    return found


def openable(store: BlobStore, keys: list[bytes], mid: str) -> int:
    """Try every key on every envelope and lease of an asset, by the second implementation; count what opens."""
    opened = 0
    places = [name for version in all_envelopes(store, mid) for name in version.names] + list(store.list("l/"))
    for name in places:
        value = json.loads(store.get(name))
        if value.get("mid", mid) != mid:
            continue
        context = value.get("context") or {
            "store": json.loads(store.get("lightmill.json"))["store"],
            "workspace": "default",
            "mid": mid,
            "publish": value["publish"],
        }
        for key in keys:
            try:
                reference.unwrap(key, base64.b64decode(value["wrapped"]), context)
            except Exception:  # noqa: BLE001
                continue
            opened += 1
    return opened


def test_isolate_gives_a_key_and_moves_the_envelopes(two: World) -> None:
    it = subject(two)
    done = care(two).isolate(it, progress=None)
    assert done.rotated.rewrapped == 2 and done.receipt.action is KeyAction.ISOLATE
    heads = [read_envelope_head(two.store.get(n)).key_id for v in all_envelopes(two.store, it.mid) for n in v.names]
    assert set(heads) == {done.key.key_id} != {two.ring.provider.key_id} and len(heads) == 2
    publish(two.registry, state=weights(3))
    again = care(two).isolate(it, progress=None)
    assert (again.rotated.rewrapped, again.rotated.current, again.key) == (0, 3, done.key)
    open_latest(two.registry)
    open_latest(two.registry, "other")


def test_an_asset_without_a_key_of_its_own_is_refused_with_the_remedy(two: World) -> None:
    with pytest.raises(RequestError, match="lightmill keys isolate model m"):
        care(two).erase(subject(two))
    open_latest(two.registry)
    assert AuditTrail(two.ring).read() == []


def test_after_erase_nothing_is_recoverable(two: World) -> None:
    it = subject(two)
    care(two).isolate(it, progress=None)
    draft = two.registry.begin(MODEL, "m")  # a publisher that died: its lease holds a version key too
    backup = two.copy_of_store()
    keys_before = every_key(two.ring.path)
    assert openable(backup, keys_before, it.mid or "") == 3
    receipt = care(two).erase(it)
    keys_after = every_key(two.ring.path)
    assert len(keys_after) == len(keys_before) - 1
    for store in (two.store, backup):
        assert openable(store, keys_after, it.mid or "") == 0
        registry = two.new_registry(store=store, ring=KeyRing.open(two.ring.path))
        for n in ("1", "2"):
            with pytest.raises(ErasedError, match=rf"erased at 20.*receipt {receipt.receipt}"):
                registry.open(registry.resolve(MODEL, Reference(name="m", selector=n)))
        with pytest.raises(LightmillError):
            registry.join(draft.id)
        open_latest(registry, "other")
    with pytest.raises(ErasedError):  # a process that had opened the ring before
        open_latest(two.registry)
    assert (receipt.versions, receipt.keys[0].final, receipt.what) == (2, "now", "model m")
    assert [r.action for r in AuditTrail(two.ring).read()] == [
        KeyAction.ISOLATE,
        KeyAction.ERASE_BEGUN,
        KeyAction.ERASE,
    ]


def test_an_envelope_in_an_older_backup_opens_until_the_older_key_is_destroyed_too(two: World) -> None:
    """What `isolate` says about backups is true, and so is its remedy."""
    it = subject(two)
    backup = two.copy_of_store()
    old = next(key for key in two.ring.root_keys)
    care(two).isolate(it, progress=None)
    care(two).erase(it)
    assert openable(backup, every_key(two.ring.path), it.mid or "") == 2
    care(two).rotate(progress=None)
    care(two).destroy_key(next(key for key in two.ring.root_keys if key.key_id == old.key_id))
    assert openable(backup, every_key(two.ring.path), it.mid or "") == 0
    open_latest(two.registry, "other")


def test_an_unfinished_isolation_is_finished_before_erasing(two: World) -> None:
    it = subject(two)
    two.ring.add_root_key(it.scope)
    with pytest.raises(ConflictError, match="2 versions of model m are still wrapped by another"):
        care(two).erase(it)
    care(two).isolate(it, progress=None)
    care(two).erase(it)


def test_stray_envelopes_and_leases_under_other_keys_go_with_it(two: World) -> None:
    it = subject(two)
    context = {"store": two.store_id, "workspace": "default", "mid": it.mid or "", "seq": "3"}
    two.store.create(f"r/{it.mid}/e/{3:010d}/000000", seal_envelope(new_key(), two.ring.provider, context))
    two.registry.begin(MODEL, "m")
    two.registry.begin(MODEL, "other")
    care(two).isolate(it, progress=None)
    assert openable(two.store, every_key(two.ring.path), it.mid or "") == 4
    care(two).erase(it)
    assert openable(two.store, every_key(two.ring.path), it.mid or "") == 0
    assert len(list(two.store.list("l/"))) == 1


def test_nothing_is_published_under_an_erased_name_until_it_gets_a_new_key(two: World) -> None:
    it = subject(two)
    care(two).isolate(it, progress=None)
    care(two).erase(it)
    with pytest.raises(RequestError, match="erased, so nothing can be written"):
        publish(two.registry, state=weights(3))
    done = care(two).isolate(it, progress=None)
    assert done.rotated.erased == 2
    assert publish(two.registry, state=weights(3)).id.seq == 3
    open_latest(two.registry)
    with pytest.raises(ErasedError):
        two.registry.open(two.registry.resolve(MODEL, Reference(name="m", selector="1")))


def test_isolated_before_the_first_version_no_copy_is_ever_elsewhere(world: World) -> None:
    it = subject(world, "later")
    care(world).isolate(it, progress=None)
    publish(world.registry, "later")
    backup = world.copy_of_store()
    care(world).erase(it)
    assert openable(backup, every_key(world.ring.path), it.mid or "") == 0


def test_a_workspace_is_erased_with_its_assets_of_their_own(two: World) -> None:
    publish_dataset(two.registry, "d", table())
    two.ring.add_workspace("second")
    second = two.new_registry()
    second = type(second)(two.store, two.ring, "second", two.store_id)
    publish(second, "m", state=weights(9))
    whole = Subject(scope=workspace_scope("default"), what="workspace default", workspace="default")
    care(two).isolate(subject(two), progress=None)
    with pytest.raises(RequestError, match="keys isolate --workspace"):
        care(two).erase(whole)
    done = care(two).isolate(whole, progress=None)
    assert done.rotated.rewrapped == 3
    receipt = care(two).erase(whole)
    assert (receipt.versions, len(receipt.keys)) == (5, 2)
    for kind, name in ((MODEL, "m"), (MODEL, "other"), (AssetKind.DATASET, "d")):
        registry = two.new_registry(ring=KeyRing.open(two.ring.path))
        with pytest.raises(ErasedError):
            registry.open(registry.resolve(kind, Reference(name=name)))
        assert openable(two.store, every_key(two.ring.path), registry.mid(kind, name)) == 0
    open_latest(second)


def test_erasing_again_returns_the_same_receipt(two: World) -> None:
    it = subject(two)
    care(two).isolate(it, progress=None)
    first = care(two).erase(it)
    assert care(two).erase(it) == first and len(AuditTrail(two.ring).read()) == 3


def test_killed_at_any_moment_erase_can_be_repeated(two: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file changes that erasing makes are the ring's and the trail's: die at each fsync of them."""
    it = subject(two)
    real, kills = os.fsync, 0

    def dying(limit: int) -> None:
        left = [limit]

        def fsync(descriptor: int) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            real(descriptor)

        os.fsync = fsync

    care(two).isolate(it, progress=None)
    for limit in range(1, 40):

        def work(limit: int = limit) -> None:
            dying(limit)
            care(two).erase(it)

        if in_child(work) == 0:
            break
        kills += 1
        AuditTrail(KeyRing.open(two.ring.path)).read()
    receipt = care(two).erase(it)
    found = AuditTrail(two.ring).read()
    assert [r for r in found if r.action is KeyAction.ERASE] == [receipt]
    assert openable(two.store, every_key(two.ring.path), it.mid or "") == 0
    with pytest.raises(ErasedError, match=receipt.receipt):
        open_latest(two.registry)
    print(f"erase: {kills} kills at an fsync; one receipt, and the tombstone names it")
    assert kills >= 2


def test_killed_at_any_change_of_the_store_erase_can_be_repeated(two: World) -> None:
    it = subject(two)
    care(two).isolate(it, progress=None)
    two.registry.begin(MODEL, "m")
    assert in_child(lambda: care(two, DyingStore(two.store, 1, after=False)).erase(it)) == signal.SIGKILL
    care(two).erase(it)
    assert openable(two.store, every_key(two.ring.path), it.mid or "") == 0


def test_an_erased_asset_does_not_stop_a_rotation(two: World) -> None:
    it = subject(two)
    care(two).isolate(it, progress=None)
    care(two).erase(it)
    _, done, _ = care(two).rotate(progress=None)
    assert (done.rewrapped, done.erased, done.problems) == (2, 2, ())
    open_latest(two.registry, "other")


def test_a_destroyed_key_whose_receipt_a_crash_prevented_gets_it(two: World) -> None:
    care(two).rotate(progress=None)
    (old,) = (key for key in two.ring.root_keys if not key.current)
    two.ring.destroy_root_keys([old], Erasure(at="2026-01-01T00:00:00.000Z", receipt="receipt-x"))
    (dead,) = (key for key in two.ring.root_keys if key.erased)
    receipt = care(two).destroy_key(dead)
    assert (receipt.receipt, receipt.action, receipt.keys[0].final) == ("receipt-x", KeyAction.DESTROY, "now")
    with pytest.raises(NotFoundError, match="receipt-x"):
        care(two).destroy_key(dead)


def test_a_tampered_trail_stops_every_change_of_keys(two: World) -> None:
    it = subject(two)
    care(two).isolate(it, progress=None)
    trail = AuditTrail(two.ring)
    trail.path.write_bytes(b"")
    before = two.ring.path.read_bytes()
    for change in (
        lambda: care(two).erase(it),
        lambda: care(two).isolate(subject(two, "other"), progress=None),
        lambda: care(two).rotate(progress=None),
    ):
        with pytest.raises(LightmillError, match="cut or replaced"):
            change()
    assert two.ring.path.read_bytes() == before
    open_latest(two.registry)


def test_the_provider_of_another_ring_opens_nothing_either(two: World, tmp_path: Path) -> None:
    stranger = KeyRing.create(tmp_path / "stranger.json")
    (version, *_) = all_envelopes(two.store, subject(two).mid)
    data = two.store.get(version.names[0])
    with pytest.raises(LightmillError):
        open_envelope(data, stranger.provider, read_envelope_head(data).context)
