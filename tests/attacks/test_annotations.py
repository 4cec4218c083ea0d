"""Tombstones and annotations that were edited, swapped, forged, replayed or taken away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightmill.errors import IntegrityError
from lightmill.records.annotations import Annotation, TagsChanged
from lightmill.records.assets import Tombstone
from lightmill.records.references import VersionId, parse_reference
from lightmill.registry import Registry
from lightmill.registry.names import alias_name, annotation_name, record_name, tombstone_name
from lightmill.storage import LocalStore
from lightmill.vault import ANNOTATION_TYPE, TOMBSTONE_TYPE, KeyRing
from tests.attacks.scene import edit, signed, signed_payload
from tests.attacks.test_stored_bytes import CHANGES, FRACTIONS, flip
from tests.unit.registry.world import MODEL, World, publish, weights


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Versions 1 and 2 with annotations, 3 and 4 deleted; and another model with one of each."""
    world = World(tmp_path_factory.mktemp("said"))
    for n in range(5):
        publish(world.registry, state=weights(n))
    publish(world.registry, "other")
    publish(world.registry, "other")
    for name, seq in (("m", 1), ("m", 2), ("m", 1), ("other", 1)):
        world.registry.annotate(id_of(world.registry, name, seq), TagsChanged(set={f"t{seq}": "x"}))
    for name, seq in (("m", 3), ("m", 4), ("other", 2)):
        world.registry.delete(MODEL, name, seq, "bad")
    world.registry.set_alias(MODEL, "m", "champion", 2)
    return world


@pytest.fixture
def stolen(world: World, tmp_path: Path) -> LocalStore:
    return world.copy_of_store(str(tmp_path / "stolen"))


def id_of(registry: Registry, name: str, seq: int) -> VersionId:
    return registry.resolve(MODEL, parse_reference(f"{name}@{seq}"))


def refuses_notes(world: World, store: LocalStore, *, catalog: bool = False) -> str:
    registry = world.new_registry(store=store, catalog=world.catalog if catalog else None)
    with pytest.raises(IntegrityError) as caught:
        registry.notes(id_of(registry, "m", 1))
    return caught.value.message


def refuses_version(world: World, store: LocalStore, seq: int = 3, *, catalog: bool = False) -> str:
    registry = world.new_registry(store=store, catalog=world.catalog if catalog else None)
    with pytest.raises(IntegrityError) as caught:
        registry.resolve(MODEL, parse_reference(f"m@{seq}"))
    with pytest.raises(IntegrityError):
        registry.deleted(MODEL, "m")
    return caught.value.message


def mid(world: World, name: str = "m") -> str:
    return world.registry.mid(MODEL, name)


def test_without_an_attack_everything_is_as_it_was(world: World, stolen: LocalStore) -> None:
    registry = world.new_registry(store=stolen, catalog=world.catalog)
    assert registry.notes(id_of(registry, "m", 1)).tags == {"t1": "x"}
    assert registry.deleted(MODEL, "m") == {3, 4}
    assert registry.resolve(MODEL, parse_reference("m@latest")).seq == 5


@pytest.mark.parametrize("change", [*CHANGES, *(f"flip at {fraction}" for fraction in FRACTIONS)])
def test_an_edited_annotation_or_tombstone_is_refused_by_name(world: World, stolen: LocalStore, change: str) -> None:
    apply = CHANGES.get(change) or flip(float(change.rpartition(" ")[2]), 1)
    annotation, tombstone = annotation_name(mid(world), 1), tombstone_name(mid(world), 3)
    edit(stolen, annotation, apply)
    assert annotation in refuses_notes(world, stolen)
    edit(stolen, tombstone, apply)
    assert tombstone in refuses_version(world, stolen)


def test_annotations_do_not_count_in_another_place(world: World, stolen: LocalStore) -> None:
    good = {n: stolen.get(annotation_name(mid(world), n)) for n in (1, 2, 3)}
    foreign = stolen.get(annotation_name(mid(world, "other"), 1))
    for place, data in ((1, good[2]), (2, good[1]), (3, good[1]), (1, foreign)):
        edit(stolen, annotation_name(mid(world), place), lambda _, data=data: data)
        refuses_notes(world, stolen)
        edit(stolen, annotation_name(mid(world), place), lambda _, data=good[place]: data)
    stolen.create(annotation_name(mid(world), 4), good[3])
    assert "elsewhere" in refuses_notes(world, stolen)


def test_a_missing_annotation_is_missed(world: World, stolen: LocalStore) -> None:
    """In the middle by the chain; at the end by the catalog's mark."""
    last = stolen.get(annotation_name(mid(world), 3))
    stolen.delete(annotation_name(mid(world), 3))
    assert "rolled back" in refuses_notes(world, stolen, catalog=True)
    stolen.create(annotation_name(mid(world), 3), last)
    stolen.delete(annotation_name(mid(world), 2))
    registry = world.new_registry(store=stolen)
    with pytest.raises(IntegrityError, match="missing"):
        registry.notes(id_of(registry, "m", 1))


def test_a_history_of_annotations_that_was_rewritten_is_found_by_the_catalog(world: World, stolen: LocalStore) -> None:
    """Rolled back by one, and written on: as many entries as before, another one at the end."""
    stolen.delete(annotation_name(mid(world), 3))
    elsewhere = world.new_registry(store=stolen)
    elsewhere.annotate(id_of(elsewhere, "m", 2), TagsChanged(set={"new": "x"}))
    assert "rewritten" in refuses_notes(world, stolen, catalog=True)


@pytest.fixture
def stranger(tmp_path: Path) -> KeyRing:
    return KeyRing.create(tmp_path / "stranger" / "ring.json")


def forged(ring: KeyRing, payload: dict[str, Any], kind: str) -> bytes:
    model = Tombstone if kind == TOMBSTONE_TYPE else Annotation
    return signed(ring, model.model_validate(payload).model_dump(mode="json"), kind)


def test_what_a_stranger_signed_does_not_count(world: World, stolen: LocalStore, stranger: KeyRing) -> None:
    said = signed_payload(stolen.get(annotation_name(mid(world), 1)))
    data = forged(stranger, said | {"publisher": stranger.signer.key_id}, ANNOTATION_TYPE)
    edit(stolen, annotation_name(mid(world), 1), lambda _: data)
    assert "not a trusted publisher" in refuses_notes(world, stolen)
    gone = signed_payload(stolen.get(tombstone_name(mid(world), 3)))
    record = signed_payload(stolen.get(alias_name(mid(world), "champion", 1)))["record"]
    planted = gone | {"seq": 2, "record": record, "publisher": stranger.signer.key_id}
    stolen.create(tombstone_name(mid(world), 2), forged(stranger, planted, TOMBSTONE_TYPE))
    assert "not a trusted publisher" in refuses_version(world, stolen, 2)


def test_a_sealed_part_does_not_open_in_another_entry(world: World, stolen: LocalStore) -> None:
    """Even a trusted publisher cannot pass what was said of one version, or earlier, for what is said now."""
    entries = {n: signed_payload(stolen.get(annotation_name(mid(world), n))) for n in (1, 2, 3)}
    for source in (1, 2):
        data = forged(world.ring, entries[3] | {"sealed": entries[source]["sealed"]}, ANNOTATION_TYPE)
        edit(stolen, annotation_name(mid(world), 3), lambda _, data=data: data)
        registry = world.new_registry(store=stolen)
        with pytest.raises(IntegrityError):
            registry.notes(id_of(registry, "m", 1))


def test_tombstones_do_not_count_in_another_place(world: World, stolen: LocalStore) -> None:
    three, four = (stolen.get(tombstone_name(mid(world), seq)) for seq in (3, 4))
    foreign = stolen.get(tombstone_name(mid(world, "other"), 2))
    for data in (four, foreign):
        edit(stolen, tombstone_name(mid(world), 3), lambda _, data=data: data)
        assert "elsewhere" in refuses_version(world, stolen)
    edit(stolen, tombstone_name(mid(world), 3), lambda _: three)
    for data in (three, foreign):  # nobody deletes a version by copying the tombstone of another
        stolen.create(tombstone_name(mid(world), 2), data)
        assert "elsewhere" in refuses_version(world, stolen, 2)
        stolen.delete(tombstone_name(mid(world), 2))


def test_a_tombstone_names_the_record_it_buries(world: World, stolen: LocalStore) -> None:
    payload = signed_payload(stolen.get(tombstone_name(mid(world), 3)))
    data = forged(world.ring, payload | {"record": "ab" * 32}, TOMBSTONE_TYPE)
    edit(stolen, tombstone_name(mid(world), 3), lambda _: data)
    assert "another commit record" in refuses_version(world, stolen)


def test_a_record_of_one_kind_is_none_of_another(world: World, stolen: LocalStore) -> None:
    record, entry = stolen.get(record_name(mid(world), 3)), stolen.get(alias_name(mid(world), "champion", 1))
    for data in (record, entry, stolen.get(annotation_name(mid(world), 1))):
        edit(stolen, tombstone_name(mid(world), 3), lambda _, data=data: data)
        assert "signed as" in refuses_version(world, stolen)
    for data in (record, entry):
        edit(stolen, annotation_name(mid(world), 1), lambda _, data=data: data)
        assert "signed as" in refuses_notes(world, stolen)


def test_a_tombstone_that_was_taken_away_is_missed_by_the_catalog(world: World, stolen: LocalStore) -> None:
    for seq in (3, 4):
        stolen.delete(tombstone_name(mid(world), seq))
    assert "rolled back" in refuses_version(world, stolen, catalog=True)
    registry = world.new_registry(store=stolen, catalog=world.catalog)
    with pytest.raises(IntegrityError, match="rolled back"):
        registry.open(world.new_registry(store=stolen).resolve(MODEL, parse_reference("m@4")))
