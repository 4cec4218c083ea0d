"""Whoever can write to the store changes one object; a reader refuses it by name and keeps nothing of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.storage import LocalStore
from tests.attacks.scene import Scene, edit, read_dataset, read_model, reader_of

CLASSES = [
    "blob",
    "manifest",
    "envelope",
    "commit record",
    "alias entry",
    "dataset file",
    "dataset envelope",
    "dataset manifest",
]
FRACTIONS = [0.0, 0.07, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0]


def flip(fraction: float, bit: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        position = round(fraction * (len(data) - 1))
        return data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :]

    return change


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "cut by one byte": lambda data: data[:-1],
    "cut in half": lambda data: data[: len(data) // 2],
    "cut to a header": lambda data: data[:128],
    "emptied": lambda data: b"",
    "longer by one byte": lambda data: data + b"\0",
    "longer by a line": lambda data: data + b"\n",
    "twice": lambda data: data + data,
    "reversed": lambda data: data[::-1],
    "zeros": lambda data: bytes(len(data)),
}


def refused(scene: Scene, store: LocalStore, object_class: str, *also: type[Exception]) -> None:
    """Read through a registry of its own; the error must say which object it was."""
    name = scene.objects[object_class][0]
    outcome = reader_of(object_class)(store, scene.world.ring)
    assert isinstance(outcome.error, (IntegrityError, *also)), f"{object_class}: {outcome.error!r}"
    version = "d@" if object_class.startswith("dataset") else "m@"
    assert name in outcome.error.message or version in outcome.error.message, outcome.error.message
    if object_class == "blob":
        assert outcome.zeroed
    elif outcome.memory:
        assert outcome.untouched


def test_without_an_attack_everything_is_read(scene: Scene, stolen: LocalStore) -> None:
    assert read_model(stolen, scene.world.ring).error is None
    assert read_dataset(stolen, scene.world.ring).error is None


@pytest.mark.parametrize("object_class", CLASSES)
def test_a_flipped_bit_is_refused_by_name(scene: Scene, stolen: LocalStore, object_class: str) -> None:
    name = scene.objects[object_class][0]
    good = stolen.get(name)
    for fraction in FRACTIONS:
        for bit in (1, 0x80):
            edit(stolen, name, lambda _, f=fraction, b=bit: flip(f, b)(good))
            refused(scene, stolen, object_class)


@pytest.mark.parametrize("object_class", CLASSES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_any_byte_is_refused(
    scene: Scene, stolen: LocalStore, object_class: str, data: st.DataObject
) -> None:
    name = scene.objects[object_class][0]
    good = scene.world.store.get(name)
    position = data.draw(st.integers(0, len(good) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != good[position]))
    edit(stolen, name, lambda _: good[:position] + bytes([value]) + good[position + 1 :])
    refused(scene, stolen, object_class)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("object_class", CLASSES)
def test_a_cut_extended_or_rewritten_object_is_refused_by_name(
    scene: Scene, stolen: LocalStore, object_class: str, change: str
) -> None:
    edit(stolen, scene.objects[object_class][0], CHANGES[change])
    refused(scene, stolen, object_class)


@pytest.mark.parametrize("object_class", CLASSES)
def test_two_objects_that_were_exchanged_are_refused(scene: Scene, stolen: LocalStore, object_class: str) -> None:
    one, two = scene.objects[object_class]
    first, second = stolen.get(one), stolen.get(two)
    edit(stolen, one, lambda _: second)
    edit(stolen, two, lambda _: first)
    refused(scene, stolen, object_class)


@pytest.mark.parametrize("object_class", CLASSES)
def test_an_object_with_the_bytes_of_another_class_is_refused(
    scene: Scene, stolen: LocalStore, object_class: str
) -> None:
    for other in CLASSES:
        bytes_of_other = scene.world.store.get(scene.objects[other][1])
        edit(stolen, scene.objects[object_class][0], lambda _, data=bytes_of_other: data)
        refused(scene, stolen, object_class)


@pytest.mark.parametrize("object_class", [c for c in CLASSES if c != "alias entry"])
def test_an_object_that_was_deleted_is_missed(scene: Scene, stolen: LocalStore, object_class: str) -> None:
    """The alias of the model, and the id that somebody kept, still name the version."""
    name = scene.objects[object_class][0]
    stolen.delete(name)
    if object_class != "commit record":
        refused(scene, stolen, object_class)
        return
    refused(scene, stolen, object_class, NotFoundError)
    with pytest.raises((IntegrityError, NotFoundError), match="m@2"):
        scene.world.new_registry(store=stolen).open(scene.model)


def test_a_deleted_alias_entry_below_the_newest_is_missed(scene: Scene, stolen: LocalStore) -> None:
    stolen.delete(scene.objects["alias entry"][1])
    error = read_model(stolen, scene.world.ring).error
    assert isinstance(error, IntegrityError) and "m@champion" in error.message


def test_the_store_file_in_any_state_never_leads_to_wrong_data(scene: Scene, stolen: LocalStore) -> None:
    """It is plain and not signed; what it can do is refuse. `read_model` checks every byte that it returns."""
    good = stolen.get("lightmill.json")
    errors = []
    for position in range(len(good)):
        for bit in (1, 2, 0x80):
            changed = good[:position] + bytes([good[position] ^ bit]) + good[position + 1 :]
            edit(stolen, "lightmill.json", lambda _, data=changed: data)
            outcome = read_model(stolen, scene.world.ring)
            assert outcome.error is None or isinstance(outcome.error, IntegrityError), outcome.error
            errors.append(outcome.error)
    assert sum(error is not None for error in errors) > len(errors) * 0.9
    for change in CHANGES.values():
        edit(stolen, "lightmill.json", lambda _, data=change(good): data)
        error = read_model(stolen, scene.world.ring).error
        assert error is None or isinstance(error, IntegrityError)
    stolen.delete("lightmill.json")
    error = read_model(stolen, scene.world.ring).error
    assert isinstance(error, NotFoundError) and stolen.url in error.message


def test_an_unreadable_blob_says_the_same_for_every_reason(scene: Scene, stolen: LocalStore) -> None:
    """Nobody learns from the words which check failed, as long as the size is right."""
    name = scene.objects["blob"][0]
    good = stolen.get(name)
    messages = set()
    for position in (0, 8, 10, 11, 12, 20, 52, 84, 128, len(good) - 1):
        changed = good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :]
        edit(stolen, name, lambda _, data=changed: data)
        error = read_model(stolen, scene.world.ring).error
        assert error is not None
        messages.add(error.message)
    assert len(messages) == 1
