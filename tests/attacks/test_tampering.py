"""The long tamper suite: at least 100,000 changes of stored bytes, and none of them read as anything.

Every class of object is changed in the ways that hands and broken hardware change bytes; a reader that starts anew
then refuses each, by name, and keeps nothing of it. Seeds are fixed, so a case that fails can be run again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from lightmill.errors import IntegrityError, LightmillError
from lightmill.registry.names import annotation_name, tombstone_name
from lightmill.storage import LocalStore
from tests.attacks.scene import Scene, edit
from tests.attacks.test_annotations import id_of, mid
from tests.attacks.test_annotations import world as annotated  # noqa: F401 - a fixture
from tests.attacks.test_stored_bytes import CLASSES, refused
from tests.conftest import Tally
from tests.unit.registry.world import MODEL, World

pytestmark = pytest.mark.slow
CASES = 10_500


def flipped(data: bytearray, chance: Random) -> None:
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def replaced(data: bytearray, chance: Random) -> None:
    start = chance.randrange(len(data))
    length = min(len(data) - start, chance.choice((1, 2, 4, 16, 100)))
    data[start : start + length] = chance.randbytes(length)


def zeroed(data: bytearray, chance: Random) -> None:
    start = chance.randrange(len(data))
    stop = min(len(data), start + chance.choice((1, 8, 16, 512)))
    data[start:stop] = bytes(stop - start)


def cut(data: bytearray, chance: Random) -> None:
    del data[chance.randrange(len(data)) :]


def shortened(data: bytearray, chance: Random) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.choice((1, 2, 16, 32))]


def lengthened(data: bytearray, chance: Random) -> None:
    start = chance.randrange(len(data) + 1)
    data[start:start] = chance.randbytes(chance.choice((1, 2, 16, 100)))


def doubled(data: bytearray, chance: Random) -> None:
    start = chance.randrange(len(data))
    stop = start + chance.choice((1, 16, 64))
    data[stop:stop] = data[start:stop]


def exchanged(data: bytearray, chance: Random) -> None:
    length = chance.choice((1, 2, 16, 32))
    one, two = sorted(chance.randrange(max(1, len(data) - length)) for _ in range(2))
    two = max(two, one + length)
    part = data[one : one + length]
    data[one : one + length] = data[two : two + length]
    data[two : two + length] = part


def shifted(data: bytearray, chance: Random) -> None:
    start = chance.randrange(len(data))
    value = data.pop(start)
    data.insert(chance.randrange(len(data) + 1), value)


HANDS: list[Callable[[bytearray, Random], None]] = [
    flipped,
    replaced,
    zeroed,
    cut,
    shortened,
    lengthened,
    doubled,
    exchanged,
    shifted,
]


def changes(good: bytes, other: bytes, seed: int, cases: int) -> list[bytes]:
    """Different contents for one object, none of them the right one; a tenth has a part of another object in it."""
    chance = Random(seed)
    found: dict[bytes, None] = {}
    while len(found) < cases:
        data = bytearray(good)
        if chance.random() < 0.1:
            start = chance.randrange(min(len(good), len(other)))
            data[start : start + chance.choice((1, 16, 200, len(data)))] = other[start : start + len(data)]
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            if data:
                chance.choice(HANDS)(data, chance)
        if data != good:
            found[bytes(data)] = None
    return list(found)


@pytest.mark.parametrize("object_class", CLASSES)
def test_no_change_of_an_object_is_read(scene: Scene, stolen: LocalStore, tally: Tally, object_class: str) -> None:
    name, second = scene.objects[object_class]
    cases = changes(stolen.get(name), stolen.get(second), CLASSES.index(object_class), CASES)
    for data in cases:
        edit(stolen, name, lambda _, data=data: data)
        refused(scene, stolen, object_class)
    tally(f"tampered {object_class}, refused", len(cases))


@pytest.mark.parametrize("part", ["annotation", "tombstone"])
def test_no_change_of_what_was_said_is_read(annotated: World, tmp_path: Path, tally: Tally, part: str) -> None:  # noqa: F811
    named = annotation_name if part == "annotation" else tombstone_name
    first, second = (1, 2) if part == "annotation" else (3, 4)
    store = annotated.copy_of_store(str(tmp_path / "stolen"))
    name = named(mid(annotated), first)
    cases = changes(store.get(name), store.get(named(mid(annotated), second)), 100 + first, CASES)
    for data in cases:
        edit(store, name, lambda _, data=data: data)
        registry = annotated.new_registry(store=store)
        try:
            if part == "annotation":
                registry.notes(id_of(registry, "m", 1))
            else:
                registry.deleted(MODEL, "m")
        except LightmillError as exc:
            assert isinstance(exc, IntegrityError), repr(exc)
            assert name in exc.message
            continue
        raise AssertionError(f"{name} was read though it was changed: {data!r}")
    tally(f"tampered {part}, refused", len(cases))
