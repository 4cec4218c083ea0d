"""Deleted versions: gone for every reader, refused while used, their numbers never used again."""

from __future__ import annotations

import pytest

from lightmill.errors import ConflictError, IntegrityError, NotFoundError, RequestError
from lightmill.records.endpoints import EndpointState
from lightmill.records.references import AssetKind, parse_reference
from lightmill.records.specs import EndpointSpec
from lightmill.registry.names import tombstone_name
from tests.unit.registry.world import MODEL, World, publish, weights


@pytest.fixture
def three(world: World) -> World:
    for n in range(3):
        publish(world.registry, state=weights(n))
    return world


def latest(world: World) -> int:
    return world.registry.resolve(MODEL, parse_reference("m@latest")).seq


def test_a_deleted_version_is_not_resolved_opened_or_listed(three: World) -> None:
    id = three.registry.resolve(MODEL, parse_reference("m@2"))
    tombstone = three.registry.delete(MODEL, "m", 2, "trained on the wrong rows")
    assert (tombstone.seq, tombstone.record, tombstone.reason) == (2, id.digest, "trained on the wrong rows")
    for registry in (three.registry, three.new_registry()):
        with pytest.raises(NotFoundError, match="deleted.*trained on the wrong rows"):
            registry.resolve(MODEL, parse_reference("m@2"))
        with pytest.raises(NotFoundError, match="deleted"):
            registry.open(id)
        assert registry.deleted(MODEL, "m") == {2}
    assert [s.id.seq for s in three.catalog.versions.list(MODEL, "m")] == [3, 1]
    shown = three.catalog.versions.list(MODEL, "m", deleted=True)[1]
    assert shown.deleted is not None and shown.deleted.reason == "trained on the wrong rows"
    assert (shown.metrics, shown.card) == ({}, {})


def test_latest_is_the_newest_that_is_left_and_numbers_are_not_used_again(three: World) -> None:
    three.registry.delete(MODEL, "m", 3, "bad")
    assert latest(three) == 2
    assert publish(three.registry).id.seq == 4
    for seq in (4, 2, 1):
        three.registry.delete(MODEL, "m", seq, "bad")
    with pytest.raises(NotFoundError, match="All 4 versions"):
        latest(three)
    assert three.catalog.versions.assets(MODEL) == []
    (asset,) = three.catalog.versions.assets(MODEL, deleted=True)
    assert (asset.versions, asset.latest) == (0, 0)
    assert publish(three.registry).id.seq == 5
    assert latest(three) == 5


def test_a_version_that_an_alias_uses_is_not_deleted(three: World) -> None:
    three.registry.set_alias(MODEL, "m", "champion", 1)
    three.registry.set_alias(MODEL, "m", "canary", 1)
    with pytest.raises(ConflictError, match="alias 'canary', alias 'champion'"):
        three.registry.delete(MODEL, "m", 1, "bad")
    three.registry.set_alias(MODEL, "m", "champion", 2)
    three.registry.set_alias(MODEL, "m", "canary", 2)
    three.registry.delete(MODEL, "m", 1, "bad")
    with pytest.raises(NotFoundError, match="deleted"):
        three.registry.set_alias(MODEL, "m", "champion", 1)


@pytest.mark.parametrize("reference", ["m@3", "m@latest"])
def test_a_version_that_an_endpoint_should_serve_is_not_deleted(three: World, reference: str) -> None:
    three.catalog.endpoints.put(EndpointSpec(name="shop", model=reference))
    with pytest.raises(ConflictError, match="endpoint 'shop'"):
        three.registry.delete(MODEL, "m", 3, "bad")
    three.registry.delete(MODEL, "m", 2, "bad")
    three.catalog.endpoints.delete("shop")
    three.registry.delete(MODEL, "m", 3, "bad")


def test_a_version_that_an_endpoint_still_serves_is_not_deleted(three: World) -> None:
    three.catalog.endpoints.put(EndpointSpec(name="shop", model="m@champion"))
    three.catalog.endpoints.observe(
        "shop",
        state=EndpointState.READY,
        version=three.registry.resolve(MODEL, parse_reference("m@1")),
        replicas=1,
        message="",
    )
    three.catalog.endpoints.delete("shop")
    with pytest.raises(ConflictError, match="endpoint 'shop'"):
        three.registry.delete(MODEL, "m", 1, "bad")


def test_deleting_twice_or_what_is_not_there_is_not_found(three: World) -> None:
    three.registry.delete(MODEL, "m", 1, "bad")
    for seq in (1, 7):
        with pytest.raises(NotFoundError):
            three.registry.delete(MODEL, "m", seq, "bad")
    with pytest.raises(NotFoundError):
        three.registry.delete(AssetKind.DATASET, "m", 1, "bad")


@pytest.mark.parametrize("reason", ["", "   ", "x" * 501, "two\nlines"])
def test_a_deletion_needs_a_reason(three: World, reason: str) -> None:
    with pytest.raises(RequestError, match="reason"):
        three.registry.delete(MODEL, "m", 1, reason)
    assert not [name for name in three.names("r/") if "/t/" in name]


def test_healing_lists_deleted_versions_as_deleted_and_nothing_else_of_them(three: World) -> None:
    three.registry.delete(MODEL, "m", 2, "bad")
    with three.new_catalog() as empty:
        registry = three.new_registry(catalog=empty)
        assert registry.heal() == 3
        assert registry.heal() == 0
        everything = {"deleted": True}
        assert empty.versions.list(MODEL, "m", **everything) == three.catalog.versions.list(MODEL, "m", **everything)
        assert empty.marks.all() == three.catalog.marks.all()


def test_healing_marks_what_was_deleted_by_somebody_without_this_catalog(three: World) -> None:
    three.new_registry().delete(MODEL, "m", 1, "bad")
    assert three.registry.heal() == 1
    assert [s.id.seq for s in three.catalog.versions.list(MODEL, "m")] == [3, 2]


def test_healing_does_not_need_the_bytes_of_a_deleted_version(three: World) -> None:
    three.registry.delete(MODEL, "m", 2, "bad")
    mid = three.registry.mid(MODEL, "m")
    for name in three.names(f"r/{mid}/e/{2:010d}/"):
        three.store.delete(name)
    with three.new_catalog() as empty:
        three.new_registry(catalog=empty).heal()
        assert empty.versions.list(MODEL, "m", deleted=True) == three.catalog.versions.list(MODEL, "m", deleted=True)


def test_a_tombstone_that_vanishes_is_missed(three: World) -> None:
    three.registry.delete(MODEL, "m", 2, "bad")
    three.store.delete(tombstone_name(three.registry.mid(MODEL, "m"), 2))
    with pytest.raises(IntegrityError, match="rolled back"):
        three.registry.resolve(MODEL, parse_reference("m@2"))
    with pytest.raises(IntegrityError, match="rolled back"):
        three.registry.deleted(MODEL, "m")
