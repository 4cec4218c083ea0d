"""Attacks with bytes that are genuine, elsewhere or earlier; and with another key ring."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lightmill.errors import IntegrityError, RequestError
from lightmill.records.references import parse_reference
from lightmill.registry import Registry, RegistryLocation, read_store_id
from lightmill.registry.names import alias_name, envelope_name, record_name, records_prefix
from lightmill.storage import LocalStore
from lightmill.vault import KeyRing
from tests.attacks.scene import (
    Scene,
    build,
    edit,
    read_model,
    signed_alias,
    signed_commit,
    signed_payload,
)
from tests.unit.registry.world import MODEL, World, publish, weights


def error_of(store: LocalStore, ring: KeyRing, reference: str = "m@champion") -> IntegrityError:
    outcome = read_model(store, ring, reference)
    assert isinstance(outcome.error, IntegrityError), repr(outcome.error)
    assert outcome.untouched
    return outcome.error


def test_the_records_of_one_asset_do_not_count_for_another(scene: Scene, stolen: LocalStore) -> None:
    """Everything below the other model's id is replaced by this model's."""
    mid, other = (scene.world.registry.mid(MODEL, name) for name in ("m", "other"))
    shutil.rmtree(stolen.path(f"r/{other}"))
    shutil.copytree(stolen.path(f"r/{mid}"), stolen.path(f"r/{other}"))
    for reference in ("other@latest", "other@1", "other@champion"):
        assert "belongs elsewhere" in error_of(stolen, scene.world.ring, reference).message


def test_a_record_does_not_count_under_another_number(scene: Scene, stolen: LocalStore) -> None:
    mid = scene.world.registry.mid(MODEL, "m")
    stolen.create(record_name(mid, 3), stolen.get(record_name(mid, 2)))
    stolen.create(envelope_name(mid, 3, 0), stolen.get(envelope_name(mid, 2, 0)))
    assert "m@latest" in error_of(stolen, scene.world.ring, "m@latest").message


def test_an_old_version_under_the_newest_number_is_refused(scene: Scene, stolen: LocalStore) -> None:
    """Record and envelope of version 1 in the place of version 2."""
    mid = scene.world.registry.mid(MODEL, "m")
    for one, two in ((record_name(mid, 1), record_name(mid, 2)), (envelope_name(mid, 1, 0), envelope_name(mid, 2, 0))):
        edit(stolen, two, lambda _, data=stolen.get(one): data)
    for reference in ("m@latest", "m@2", "m@champion"):
        assert "@" in error_of(stolen, scene.world.ring, reference).message


def test_an_old_alias_entry_replayed_as_the_newest_is_refused(scene: Scene, stolen: LocalStore) -> None:
    mid = scene.world.registry.mid(MODEL, "m")
    stolen.create(alias_name(mid, "champion", 3), stolen.get(alias_name(mid, "champion", 1)))
    assert "m@champion" in error_of(stolen, scene.world.ring).message


def test_the_entries_of_one_alias_do_not_count_for_another(scene: Scene, stolen: LocalStore) -> None:
    mid = scene.world.registry.mid(MODEL, "m")
    stolen.create(alias_name(mid, "canary", 1), stolen.get(alias_name(mid, "champion", 1)))
    assert "m@canary" in error_of(stolen, scene.world.ring, "m@canary").message


def test_a_commit_record_is_no_alias_entry_and_the_reverse(scene: Scene, stolen: LocalStore) -> None:
    mid = scene.world.registry.mid(MODEL, "m")
    record, entry = stolen.get(record_name(mid, 2)), stolen.get(alias_name(mid, "champion", 2))
    edit(stolen, alias_name(mid, "champion", 2), lambda _: record)
    assert "commit" in error_of(stolen, scene.world.ring).message
    edit(stolen, record_name(mid, 2), lambda _: entry)
    assert "alias" in error_of(stolen, scene.world.ring, "m@2").message


def test_the_records_of_another_store_do_not_count_here(scene: Scene, stolen: LocalStore, tmp_path: Path) -> None:
    """The same key ring, the same name, the same number, another store."""
    twin = World.__new__(World)
    twin.store = LocalStore(tmp_path / "twin", fsync=lambda _: None)
    from lightmill.registry import initialize_store

    twin_id = initialize_store(twin.store)
    registry = Registry(twin.store, scene.world.ring, "default", twin_id)
    publish(registry, state=weights(1))
    publish(registry, state=weights(2))
    mid = registry.mid(MODEL, "m")
    shutil.rmtree(stolen.path(f"r/{mid}"))
    shutil.copytree(twin.store.path(f"r/{mid}"), stolen.path(f"r/{mid}"))
    shutil.copytree(twin.store.path("b"), stolen.path("b"), dirs_exist_ok=True)
    shutil.copytree(twin.store.path("m"), stolen.path("m"), dirs_exist_ok=True)
    assert "belongs elsewhere" in error_of(stolen, scene.world.ring, "m@latest").message
    edit(stolen, "lightmill.json", lambda _: twin.store.get("lightmill.json"))
    assert read_model(stolen, scene.world.ring, "m@latest").error is None, "the twin itself is whole"


def test_the_envelope_of_another_version_does_not_open_this_one(scene: Scene, stolen: LocalStore) -> None:
    mid, other = (scene.world.registry.mid(MODEL, name) for name in ("m", "other"))
    for source in (envelope_name(mid, 1, 0), envelope_name(other, 1, 0)):
        edit(stolen, envelope_name(mid, 2, 0), lambda _, data=stolen.get(source): data)
        assert envelope_name(mid, 2, 0) in error_of(stolen, scene.world.ring).message


def test_a_foreign_envelope_beside_the_right_one_does_no_harm(scene: Scene, stolen: LocalStore) -> None:
    mid = scene.world.registry.mid(MODEL, "m")
    stolen.create(envelope_name(mid, 2, 1), stolen.get(envelope_name(mid, 1, 0)))
    stolen.create(envelope_name(mid, 2, 2), b"{}")
    assert read_model(stolen, scene.world.ring).error is None


# -- forgeries ------------------------------------------------------------------


@pytest.fixture
def stranger(tmp_path: Path) -> KeyRing:
    return KeyRing.create(tmp_path / "stranger" / "ring.json")


def test_a_record_that_a_stranger_signed_does_not_count(scene: Scene, stolen: LocalStore, stranger: KeyRing) -> None:
    mid = scene.world.registry.mid(MODEL, "m")
    payload = signed_payload(stolen.get(record_name(mid, 2)))
    for publisher in (payload["publisher"], stranger.signer.key_id):
        forged = signed_commit(stranger, payload | {"publisher": publisher})
        edit(stolen, record_name(mid, 2), lambda _, data=forged: data)
        message = error_of(stolen, scene.world.ring, "m@2").message
        assert "not a trusted publisher" in message and record_name(mid, 2) in message


def test_an_alias_that_a_stranger_moved_does_not_count(scene: Scene, stolen: LocalStore, stranger: KeyRing) -> None:
    mid = scene.world.registry.mid(MODEL, "m")
    payload = signed_payload(stolen.get(alias_name(mid, "champion", 1)))
    forged = signed_alias(stranger, payload | {"n": 3, "publisher": stranger.signer.key_id})
    stolen.create(alias_name(mid, "champion", 3), forged)
    assert "not a trusted publisher" in error_of(stolen, scene.world.ring).message


def test_a_stranger_s_signature_under_a_trusted_name_does_not_count(
    scene: Scene, stolen: LocalStore, stranger: KeyRing
) -> None:
    mid, name = scene.world.registry.mid(MODEL, "m"), scene.world.ring.signer.key_id
    payload = signed_payload(stolen.get(record_name(mid, 2)))
    forged = signed_commit(stranger, payload).replace(stranger.signer.key_id.encode(), name.encode())
    edit(stolen, record_name(mid, 2), lambda _: forged)
    message = error_of(stolen, scene.world.ring, "m@2").message
    assert "valid signature" in message and record_name(mid, 2) in message


def test_a_trusted_publisher_cannot_sign_in_another_s_name(scene: Scene, stolen: LocalStore, tmp_path: Path) -> None:
    ring = KeyRing.open(shutil.copy(scene.world.ring.path, tmp_path / "ring.json"))
    colleague = KeyRing.create(tmp_path / "colleague" / "ring.json")
    ring.trust(colleague.signer.public_key)
    mid = scene.world.registry.mid(MODEL, "m")
    payload = signed_payload(stolen.get(record_name(mid, 2)))
    edit(stolen, record_name(mid, 2), lambda _: signed_commit(colleague, payload))
    assert "another publisher" in error_of(stolen, ring, "m@2").message


def test_what_a_publisher_signed_is_refused_once_it_is_distrusted(
    scene: Scene, stolen: LocalStore, tmp_path: Path
) -> None:
    ring = KeyRing.open(shutil.copy(scene.world.ring.path, tmp_path / "ring.json"))
    assert read_model(stolen, ring).error is None
    ring.distrust(ring.signer.key_id)
    assert "not a trusted publisher" in error_of(stolen, ring).message


# -- histories ------------------------------------------------------------------


def test_a_record_that_was_signed_again_breaks_what_pins_it(scene: Scene, stolen: LocalStore) -> None:
    """Even the publisher itself cannot rewrite version 1: version 2, the alias and any pin hold its digest."""
    mid = scene.world.registry.mid(MODEL, "m")
    first = scene.world.registry.resolve(MODEL, parse_reference("m@1"))
    payload = signed_payload(stolen.get(record_name(mid, 1)))
    forged = signed_commit(scene.world.ring, payload | {"created": "2020-01-01T00:00:00.000Z"})
    edit(stolen, record_name(mid, 1), lambda _: forged)
    registry = scene.world.new_registry(store=stolen)
    with pytest.raises(IntegrityError, match="pinned"):
        registry.open(first)
    assert "follow" in error_of(stolen, scene.world.ring, "m@2").message


def test_a_history_that_was_rewritten_whole_is_found_by_the_catalog(tmp_path: Path) -> None:
    """A store restored from an old backup and written on: as many versions as before, other ones."""
    scene = build(tmp_path / "scene")
    mid = scene.world.registry.mid(MODEL, "m")
    for name in (record_name(mid, 2), envelope_name(mid, 2, 0)):
        scene.world.store.delete(name)
    publish(scene.world.new_registry(), state=weights(9))
    with pytest.raises(IntegrityError, match="rewritten|rolled back|replaced|pinned"):
        scene.world.registry.open(scene.world.registry.resolve(MODEL, parse_reference("m@champion")))
    with pytest.raises(IntegrityError):
        scene.world.registry.resolve(MODEL, parse_reference("m@latest"))


def test_a_foreign_object_among_the_records_is_refused_by_name(scene: Scene, stolen: LocalStore) -> None:
    mid = scene.world.registry.mid(MODEL, "m")
    stolen.create(records_prefix(mid) + "notes", b"hello")
    assert records_prefix(mid) + "notes" in error_of(stolen, scene.world.ring, "m@latest").message


# -- another key ring ---------------------------------------------------------------


def test_another_key_ring_is_an_integrity_error_with_a_remedy(
    scene: Scene, stolen: LocalStore, stranger: KeyRing
) -> None:
    registry = Registry(stolen, stranger, "default", read_store_id(stolen))
    with pytest.raises(IntegrityError, match="key ring"):
        registry.open(scene.model)
    with pytest.raises(IntegrityError, match="key ring"):
        registry.resolve(MODEL, parse_reference("m@champion"))


def test_a_key_ring_without_the_root_key_names_the_key_and_the_remedy(
    scene: Scene, stolen: LocalStore, stranger: KeyRing, tmp_path: Path
) -> None:
    """A ring with the same names and publishers and other root keys: as after a botched restoration."""
    import json

    right, wrong = json.loads(scene.world.ring.path.read_text()), json.loads(stranger.path.read_text())
    mixed = right | {key: wrong[key] for key in ("root_keys", "current_root_key", "ring_id")}
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(mixed))
    path.chmod(0o600)
    message = error_of(stolen, KeyRing.open(path)).message
    assert right["current_root_key"] in message
    assert "key ring" in message and "restore" in message
    assert not any(secret in message for secret in (*right["root_keys"].values(), right["signing_seed"]))


def test_a_key_ring_with_changed_root_key_bytes_is_refused(scene: Scene, stolen: LocalStore, tmp_path: Path) -> None:
    import json

    contents = json.loads(scene.world.ring.path.read_text())
    (key_id, key), *_ = contents["root_keys"].items()
    contents["root_keys"][key_id] = ("B" if key[0] == "A" else "A") + key[1:]
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(contents))
    path.chmod(0o600)
    assert "key ring" in error_of(stolen, KeyRing.open(path)).message


def test_a_key_ring_that_others_can_read_is_refused(scene: Scene, tmp_path: Path) -> None:
    path = Path(shutil.copy(scene.world.ring.path, tmp_path / "open.json"))
    path.chmod(0o644)
    location = RegistryLocation(store_url=str(scene.world.root), keyring_path=str(path), workspace="default")
    with pytest.raises(RequestError, match="chmod 600"):
        location.open()


def test_the_joining_of_a_draft_needs_the_same_ring_and_the_same_place(
    scene: Scene, stolen: LocalStore, stranger: KeyRing
) -> None:
    registry = scene.world.new_registry(store=stolen)
    draft = registry.begin(MODEL, "m")
    with pytest.raises(IntegrityError):
        Registry(stolen, stranger, "default", scene.world.store_id).join(draft.id)
    elsewhere = draft.id.model_copy(update={"mid": registry.mid(MODEL, "other"), "name": "other"})
    with pytest.raises(IntegrityError):
        registry.join(elsewhere)
    (lease,) = stolen.list("l/")
    good = stolen.get(lease)
    for position in range(0, len(good), 7):
        edit(stolen, lease, lambda _, n=position: good[:n] + bytes([good[n] ^ 4]) + good[n + 1 :])
        try:
            key = registry.join(draft.id).key
        except IntegrityError:
            continue
        assert key == draft.key  # only what nobody relies on was changed, such as the time
