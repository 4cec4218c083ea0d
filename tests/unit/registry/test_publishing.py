"""From a draft to a version: numbers without gaps, one winner each, nothing half visible."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lightmill.errors import ConflictError, IntegrityError, NotFoundError, RequestError, UnavailableError
from lightmill.records.references import AssetKind, Reference, parse_reference
from lightmill.registry import Content
from lightmill.registry.names import alias_prefix, records_prefix
from tests.unit.registry.world import MODEL, FailingStore, World, open_latest, publish, read, seal, weights


def test_a_published_version_is_read_back_with_its_card(world: World) -> None:
    summary = publish(world.registry, state=weights(5))
    assert (summary.id.kind, summary.id.name, summary.id.seq) == (MODEL, "m", 1)
    version = world.registry.open(summary.id)
    assert version.manifest.model is not None
    assert version.manifest.model.classes == ("a", "b", "c")
    found = read(world.registry, summary.id)
    assert found.keys() == {"weight", "bias"}
    assert torch.equal(found["weight"], weights(5)["weight"])
    assert torch.equal(found["bias"], weights(5)["bias"])


def test_versions_are_numbered_from_one_and_latest_is_the_newest(world: World) -> None:
    assert world.registry.latest(MODEL, "m") == 0
    ids = [publish(world.registry, state=weights(n)).id for n in range(3)]
    assert [id.seq for id in ids] == [1, 2, 3]
    assert world.registry.latest(MODEL, "m") == 3
    assert world.registry.resolve(MODEL, parse_reference("m@latest")) == ids[2]
    assert world.registry.resolve(MODEL, parse_reference("m@2")) == ids[1]
    assert len({id.digest for id in ids}) == 3


def test_every_record_names_the_one_before_it(world: World) -> None:
    first, second = publish(world.registry).id, publish(world.registry).id
    assert world.registry.open(first).manifest.parent is None
    assert world.registry.open(second).manifest.parent == first.digest


@pytest.mark.parametrize("text", ["m@3", "m@champion", "other@latest", "other@1"])
def test_what_does_not_exist_is_not_found_with_its_name(world: World, text: str) -> None:
    publish(world.registry)
    with pytest.raises(NotFoundError) as caught:
        world.registry.resolve(MODEL, parse_reference(text))
    assert text.split("@")[0] in caught.value.message


def test_a_missing_version_or_alias_says_what_there_is(world: World) -> None:
    publish(world.registry)
    world.registry.set_alias(MODEL, "m", "canary", 1)
    with pytest.raises(NotFoundError, match="1 to 1"):
        world.registry.resolve(MODEL, parse_reference("m@7"))
    with pytest.raises(NotFoundError, match="canary"):
        world.registry.resolve(MODEL, parse_reference("m@champion"))


def test_kinds_do_not_share_names(world: World) -> None:
    publish(world.registry)
    assert world.registry.latest(AssetKind.RUN, "m") == 0
    assert world.registry.mid(MODEL, "m") != world.registry.mid(AssetKind.DATASET, "m")


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "../x", "a b", "x" * 65, "-a", "a."])
def test_a_name_that_cannot_name_an_asset_is_refused(world: World, name: str) -> None:
    with pytest.raises(RequestError):
        world.registry.begin(MODEL, name)


def test_a_commit_removes_its_lease_and_a_lost_race_leaves_nothing(world: World) -> None:
    publish(world.registry)
    publish(world.registry)
    assert world.names("l/") == []
    assert len(world.names("m/")) == 2
    assert len([name for name in world.names("r/") if "/e/" in name]) == 2


# -- drafts that several processes write -------------------------------------


def test_what_adds_to_a_version_is_published_right_behind_it_or_not_at_all(world: World) -> None:
    publish(world.registry)
    registry = world.registry
    first, second = registry.begin(MODEL, "m"), registry.begin(MODEL, "m")
    assert registry.commit(first, Content(), after=1).id.seq == 2
    with pytest.raises(ConflictError, match="Version 2 of m was published meanwhile"):
        registry.commit(second, Content(), after=1)
    assert registry.latest(MODEL, "m") == 2


def test_a_draft_is_joined_from_another_registry(world: World) -> None:
    draft = world.registry.begin(MODEL, "m")
    helper = world.new_registry().join(draft.id)
    assert helper.subkey("data") == draft.subkey("data")
    assert helper.subkey("data") != draft.subkey("footer")
    summary = world.registry.commit(draft, seal(helper, weights(2)))
    assert torch.equal(read(world.registry, summary.id)["weight"], weights(2)["weight"])


def test_a_draft_that_was_committed_cannot_be_joined(world: World) -> None:
    draft = world.registry.begin(MODEL, "m")
    world.registry.commit(draft, seal(draft, weights()))
    with pytest.raises(NotFoundError, match="committed or given up"):
        world.new_registry().join(draft.id)


def test_a_draft_is_not_visible_before_its_commit(world: World) -> None:
    draft = world.registry.begin(MODEL, "m")
    seal(draft, weights())
    assert world.registry.latest(MODEL, "m") == 0
    assert world.catalog.versions.list(MODEL, "m") == []


def test_drafts_and_opened_versions_hold_keys_and_neither_pickle_nor_print_them(world: World) -> None:
    draft = world.registry.begin(MODEL, "m")
    key = draft.key
    world.registry.commit(draft, seal(draft, weights()))
    version = open_latest(world.registry)
    for thing in (draft, version):
        assert key.hex() not in repr(thing)
        with pytest.raises(TypeError, match="secret"):
            pickle.dumps(thing)
    blobs = version.manifest.blobs
    assert blobs and all(blob.key not in repr(blob) for blob in blobs)


# -- several publishers -------------------------------------------------------


def together(work: list[Callable[[], object]]) -> list[object]:
    """Run all at the same moment, one thread each."""
    ready = threading.Barrier(len(work))

    def one(function: Callable[[], object]) -> object:
        ready.wait(30)
        return function()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(one, work))


def test_concurrent_publishers_of_one_asset_leave_no_gap_and_every_version_is_readable(world: World) -> None:
    each, publishers = 3, 5

    def publisher(number: int) -> Callable[[], list[tuple[int, int]]]:
        registry = world.new_registry(catalog=world.catalog)

        def work() -> list[tuple[int, int]]:
            starts = [100 * number + turn for turn in range(each)]
            return [(publish(registry, state=weights(start)).id.seq, start) for start in starts]

        return work

    found = together([publisher(number) for number in range(publishers)])
    starts = dict(pair for pairs in found for pair in pairs)  # pyright: ignore
    assert sorted(starts) == list(range(1, each * publishers + 1))

    reader = world.new_registry()
    parent = None
    for seq in sorted(starts):
        id = reader.resolve(MODEL, Reference(name="m", selector=str(seq)))
        assert torch.equal(read(reader, id)["weight"], weights(starts[seq])["weight"])
        assert reader.open(id).manifest.parent == parent
        parent = id.digest
    assert world.names("l/") == []
    assert [s.id.seq for s in world.catalog.versions.list(MODEL, "m")] == sorted(starts, reverse=True)


def test_of_concurrent_moves_of_one_alias_with_an_expectation_one_wins(world: World) -> None:
    for _ in range(4):
        publish(world.registry)
    world.registry.set_alias(MODEL, "m", "champion", 1)

    def mover(seq: int) -> Callable[[], object]:
        registry = world.new_registry()

        def work() -> object:
            try:
                return registry.set_alias(MODEL, "m", "champion", seq, expect=1).seq
            except ConflictError:
                return None

        return work

    won = [seq for seq in together([mover(seq) for seq in (2, 3, 4)]) if seq is not None]
    assert len(won) == 1
    assert world.registry.aliases(MODEL, "m") == {"champion": won[0]}


# -- aliases --------------------------------------------------------------------


def test_an_alias_moves_and_keeps_its_history(world: World) -> None:
    ids = [publish(world.registry, state=weights(n)).id for n in range(3)]
    entries = [world.registry.set_alias(MODEL, "m", "champion", seq) for seq in (1, 3, 2)]
    assert [(e.n, e.seq) for e in entries] == [(1, 1), (2, 3), (3, 2)]
    assert world.registry.resolve(MODEL, parse_reference("m@champion")) == ids[1]
    assert [e.record for e in entries] == [ids[0].digest, ids[2].digest, ids[1].digest]
    assert entries[0].parent is None
    assert len({e.parent for e in entries}) == 3
    assert len(world.names(alias_prefix(world.registry.mid(MODEL, "m"), "champion"))) == 3


def test_an_alias_is_compared_before_it_is_set(world: World) -> None:
    publish(world.registry)
    publish(world.registry)
    world.registry.set_alias(MODEL, "m", "champion", 1, expect=0)
    with pytest.raises(ConflictError, match="points at version 1, not 2"):
        world.registry.set_alias(MODEL, "m", "champion", 2, expect=2)
    with pytest.raises(ConflictError, match="points at version 1, not 0"):
        world.registry.set_alias(MODEL, "m", "champion", 2, expect=0)
    assert world.registry.set_alias(MODEL, "m", "champion", 2, expect=1).n == 2


def test_setting_an_alias_where_it_points_already_writes_nothing(world: World) -> None:
    publish(world.registry)
    first = world.registry.set_alias(MODEL, "m", "champion", 1)
    assert world.registry.set_alias(MODEL, "m", "champion", 1) == first
    assert len(world.names(alias_prefix(world.registry.mid(MODEL, "m"), "champion"))) == 1


def test_an_alias_cannot_point_at_nothing(world: World) -> None:
    publish(world.registry)
    for seq in (0, 2, -1):
        with pytest.raises((NotFoundError, RequestError)):
            world.registry.set_alias(MODEL, "m", "champion", seq)
    assert world.registry.aliases(MODEL, "m") == {}


@pytest.mark.parametrize("alias", ["latest", "3", "Upper", "a b", "../v", "", "a/b"])
def test_an_alias_that_no_reference_could_select_is_refused(world: World, alias: str) -> None:
    publish(world.registry)
    with pytest.raises(RequestError):
        world.registry.set_alias(MODEL, "m", alias, 1)
    assert not [name for name in world.names("r/") if "/a/" in name]


# -- a publisher that dies ------------------------------------------------------


def publish_and_promote(world: World, store: FailingStore) -> None:
    registry = world.new_registry(store=store)
    summary = publish(registry, state=weights(7))
    registry.set_alias(MODEL, "m", "champion", summary.id.seq)


def creates_of_one_publication(world: World) -> int:
    probe = FailingStore(world.store, fail_at=0)
    publish_and_promote(world, probe)
    return len(probe.created)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("n", range(1, 7))
def test_a_publisher_that_dies_at_any_write_leaves_a_whole_version_or_none(world: World, n: int, after: bool) -> None:
    """Six objects: lease, blob, manifest, envelope, commit record, alias entry."""
    assert creates_of_one_publication(world) == 6
    mid = world.registry.mid(MODEL, "m")
    store = FailingStore(world.store, fail_at=n, after=after)
    with pytest.raises(UnavailableError):
        publish_and_promote(world, store)
    assert store.failed is not None

    reader = world.new_registry()
    committed = len(world.names(records_prefix(mid))) == 2
    assert committed is (n > 5 or (n == 5 and after))
    assert reader.latest(MODEL, "m") == (2 if committed else 1)
    expected = weights(7)["weight"]
    for seq in range(1, reader.latest(MODEL, "m") + 1):
        id = reader.resolve(MODEL, Reference(name="m", selector=str(seq)))
        assert torch.equal(read(reader, id)["weight"], expected)
    moved = n == 6 and after
    assert reader.aliases(MODEL, "m") == {"champion": 2 if moved else 1}

    publish_and_promote(world, FailingStore(world.store, fail_at=0))
    latest = reader.latest(MODEL, "m")
    assert latest == (3 if committed else 2)
    records = world.names(records_prefix(mid))
    assert [int(name[-10:]) for name in records] == list(range(1, latest + 1))
    moves = world.names(alias_prefix(mid, "champion"))
    assert [int(name[-10:]) for name in moves] == list(range(1, len(moves) + 1))
    assert reader.aliases(MODEL, "m") == {"champion": latest}
    assert torch.equal(read(reader, open_latest(reader).id)["weight"], expected)


def test_repeating_a_commit_whose_answer_was_lost_finds_the_version_it_made(world: World) -> None:
    store = FailingStore(world.store, fail_at=5, after=True)  # lease, blob, manifest, envelope, commit record
    registry = world.new_registry(store=store)
    draft = registry.begin(MODEL, "m")
    content = seal(draft, weights())
    with pytest.raises(UnavailableError):
        registry.commit(draft, content)
    assert registry.commit(draft, content).id.seq == 1  # docs/format.md, section 9: its own nonce
    assert registry.latest(MODEL, "m") == 1


# -- the catalog ------------------------------------------------------------------


def test_the_catalog_lists_what_was_published(world: World) -> None:
    summary = publish(world.registry)
    assert world.catalog.versions.get(MODEL, "m", 1) == summary
    assert summary.metrics == {"test_accuracy": 0.5}
    assert summary.size_bytes > 0


def test_healing_lists_what_an_empty_catalog_lacks(world: World) -> None:
    for name, count in (("m", 3), ("other", 1)):
        for n in range(count):
            publish(world.registry, name, weights(n))
    with world.new_catalog() as empty:
        registry = world.new_registry(catalog=empty)
        assert registry.heal() == 4
        assert registry.heal() == 0
        for name in ("m", "other"):
            assert empty.versions.list(MODEL, name) == world.catalog.versions.list(MODEL, name)
        assert registry.latest(MODEL, "m") == 3


def test_healing_lists_the_aliases_too(world: World) -> None:
    publish(world.registry)
    publish(world.registry)
    world.registry.set_alias(MODEL, "m", "champion", 1)
    world.registry.set_alias(MODEL, "m", "champion", 2)
    with world.new_catalog() as empty:
        world.new_registry(catalog=empty).heal()
        assert empty.versions.asset(MODEL, "m").aliases == {"champion": 2}


def test_healing_finds_a_version_below_one_that_is_listed(world: World) -> None:
    """A publisher died between its commit record and the catalog; then another published."""
    publish(world.new_registry())
    publish(world.registry)
    world.registry.heal()
    assert [s.id.seq for s in world.catalog.versions.list(MODEL, "m")] == [2, 1]


def test_healing_leaves_out_what_does_not_verify_and_heals_the_rest(world: World) -> None:
    plain = world.new_registry()
    for name in ("a", "b", "c"):
        publish(plain, name)
    path = world.path(records_prefix(plain.mid(MODEL, "b")) + "0000000001")
    path.write_bytes(path.read_bytes()[:-10])
    world.registry.heal()
    assert [asset.name for asset in world.catalog.versions.assets(MODEL)] == ["a", "c"]


# -- a store that was rolled back --------------------------------------------------


def test_a_store_that_lost_its_newest_version_is_refused_by_the_marks(world: World) -> None:
    publish(world.registry)
    publish(world.registry)
    mid = world.registry.mid(MODEL, "m")
    world.store.delete(records_prefix(mid) + "0000000002")
    for ask in ("m@latest", "m@1"):
        with pytest.raises(IntegrityError, match="rolled back or an object deleted") as caught:
            world.registry.resolve(MODEL, parse_reference(ask))
        assert "model m" in caught.value.message


def test_a_store_that_lost_the_newest_move_of_an_alias_is_refused_by_the_marks(world: World) -> None:
    publish(world.registry)
    publish(world.registry)
    world.registry.set_alias(MODEL, "m", "champion", 1)
    world.registry.set_alias(MODEL, "m", "champion", 2)
    mid = world.registry.mid(MODEL, "m")
    world.store.delete(alias_prefix(mid, "champion") + "0000000002")
    with pytest.raises(IntegrityError, match="m@champion"):
        world.registry.resolve(MODEL, parse_reference("m@champion"))
    with pytest.raises(IntegrityError):
        world.registry.aliases(MODEL, "m")
    with pytest.raises(IntegrityError):
        world.registry.set_alias(MODEL, "m", "champion", 2)


def test_nothing_is_published_upon_a_store_that_was_rolled_back(world: World) -> None:
    publish(world.registry)
    publish(world.registry)
    world.store.delete(records_prefix(world.registry.mid(MODEL, "m")) + "0000000002")
    with pytest.raises(IntegrityError):
        publish(world.registry)
    assert world.names(records_prefix(world.registry.mid(MODEL, "m"))) == [
        records_prefix(world.registry.mid(MODEL, "m")) + "0000000001"
    ]
