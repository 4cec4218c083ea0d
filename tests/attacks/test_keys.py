"""Attacks on stored keys: swapped wrapped keys, envelopes of another scope, edited heads, a resurrected envelope."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from lightmill.errors import ErasedError, IntegrityError, LightmillError
from lightmill.records.references import Reference
from lightmill.registry.erasure import KeyCare, Subject
from lightmill.registry.names import envelope_name
from lightmill.registry.rotation import Rotation
from lightmill.vault import KeyRing, asset_scope, canonical_json, parse_json, seal_envelope
from tests.unit.registry.world import MODEL, World, open_latest, publish, weights


@pytest.fixture
def scoped(tmp_path: Path) -> World:
    """Models a and b with root keys of their own, and c under the deployment's."""
    world = World(tmp_path)
    for name in ("a", "b", "c"):
        for n in (1, 2):
            publish(world.registry, name, state=weights(n))
    for name in ("a", "b"):
        care(world).isolate(subject(world, name), progress=None)
    return world


def care(world: World) -> KeyCare:
    return KeyCare(world.store, world.ring, world.store_id)


def subject(world: World, name: str) -> Subject:
    mid = world.registry.mid(MODEL, name)
    return Subject(scope=asset_scope("default", mid), what=f"model {name}", mid=mid, workspace="default")


def envelopes(world: World) -> dict[tuple[str, int], str]:
    found = {}
    for name in ("a", "b", "c"):
        for seq in (1, 2):
            mid = world.registry.mid(MODEL, name)
            (found[name, seq],) = world.store.list(f"r/{mid}/e/{seq:010d}/")
    return found


def readable(world: World, name: str, seq: int) -> bool:
    registry = world.new_registry()
    try:
        registry.open(registry.resolve(MODEL, Reference(name=name, selector=str(seq))))
    except LightmillError as exc:
        assert isinstance(exc, IntegrityError), exc
        return False
    return True


def test_envelopes_and_their_parts_in_each_other_s_places_are_refused(scoped: World) -> None:
    places, cases = envelopes(scoped), 0
    for (here, there), part in itertools.product(
        itertools.permutations(places, 2), ("whole", "wrapped", "key_id", "provider", "context", "mac")
    ):
        path = scoped.path(places[here])
        good, other = path.read_bytes(), scoped.store.get(places[there])
        if part == "whole":
            path.write_bytes(other)
        else:
            edited = parse_json(good, 1 << 16) | {part: parse_json(other, 1 << 16)[part]}
            if canonical_json(edited) == good:
                continue
            path.write_bytes(canonical_json(edited))
        assert not readable(scoped, *here), (here, there, part)
        path.write_bytes(good)
        cases += 1
    assert all(readable(scoped, *place) for place in places)
    print(f"envelopes: {cases} exchanges refused")
    assert cases > 100


def test_rotation_does_not_launder_a_foreign_envelope(scoped: World) -> None:
    places = envelopes(scoped)
    victim = scoped.path(places["a", 1])
    good = victim.read_bytes()
    for other in (("b", 1), ("a", 2), ("c", 1)):
        foreign = scoped.store.get(places[other])
        victim.write_bytes(foreign)
        scoped.ring.add_root_key(subject(scoped, "a").scope)
        done = Rotation(scoped.store, scoped.ring, scoped.store_id).run(scoped.registry.mid(MODEL, "a"))
        assert len(done.problems) == 1 and victim.read_bytes() == foreign
        assert not readable(scoped, "a", 1)
        places = envelopes(scoped)
    victim.write_bytes(good)
    assert readable(scoped, "a", 1)


def test_an_envelope_that_somebody_with_another_version_key_made_is_passed_over(scoped: World) -> None:
    """Whoever can wrap but does not know the version's key can add an envelope; it opens nothing."""
    mid = scoped.registry.mid(MODEL, "c")
    context = {"store": scoped.store_id, "workspace": "default", "mid": mid, "seq": "2"}
    planted = envelope_name(mid, 2, 7)
    scoped.store.create(planted, seal_envelope(b"x" * 32, scoped.ring.provider, context, rot=7))
    assert readable(scoped, "c", 2)
    Rotation(scoped.store, scoped.ring, scoped.store_id).run()
    assert planted not in list(scoped.store.list("r/")) and readable(scoped, "c", 2)


def test_putting_an_erased_asset_s_objects_back_brings_nothing_back(scoped: World) -> None:
    backup = scoped.copy_of_store()
    care(scoped).erase(subject(scoped, "a"))
    for name in scoped.names():
        scoped.store.delete(name)
    for name in backup.list(""):
        scoped.store.create(name, backup.get(name))
    with pytest.raises(ErasedError):
        open_latest(scoped.registry, "a")
    open_latest(scoped.registry, "b")


def test_editing_the_tombstone_away_brings_no_key_back(scoped: World) -> None:
    """The tombstone is a courtesy to readers; what erased the data is that the key is gone."""
    care(scoped).erase(subject(scoped, "a"))
    value = parse_json(scoped.ring.path.read_bytes(), 1 << 20)
    for key in value["keys"]:
        key["erased"] = None
    scoped.ring.path.write_bytes(canonical_json(value))
    with pytest.raises(IntegrityError, match="missing from the key ring"):
        open_latest(scoped.new_registry(ring=KeyRing.open(scoped.ring.path)), "a")
