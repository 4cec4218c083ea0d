"""What is said of versions: kept in a signed log, readable by key holders only, the same after a rebuild."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from lightmill.errors import ConflictError, IntegrityError, NotFoundError, RequestError
from lightmill.records.annotations import (
    CardText,
    Change,
    Evaluated,
    Evaluation,
    Notes,
    Stage,
    StageChanged,
    TagsChanged,
    TextChanged,
)
from lightmill.records.references import AssetKind, VersionId, parse_reference
from lightmill.registry.names import annotation_name, annotations_prefix
from tests.attacks.scene import signed_payload
from tests.unit.registry.world import MODEL, World, publish, weights

DATASET = VersionId(kind=AssetKind.DATASET, name="rows", seq=1, digest="ab" * 32)
EVALUATION = Evaluation(dataset=DATASET, split="test", metrics={"test_accuracy": 0.9}, created="t", by="run r")
CHANGES: list[Change] = [
    TagsChanged(set={"team": "vision", "cost-centre": "ä 7"}),
    Evaluated(evaluation=EVALUATION),
    TextChanged(description="# Digits", limitations="Not for letters."),
    StageChanged(stage=Stage.STAGING),
    TagsChanged(set={"team": "speech"}, unset=("cost-centre",)),
    TextChanged(description="Digits"),
    StageChanged(stage=Stage.PRODUCTION, required=("test_accuracy>=0.9",), evidence=EVALUATION),
]
SAID = Notes(
    stage=Stage.PRODUCTION,
    tags={"team": "speech"},
    text=CardText(description="Digits", limitations="Not for letters."),
    evaluations=(EVALUATION,),
)


def id_of(world: World, seq: int = 1) -> VersionId:
    return world.registry.resolve(MODEL, parse_reference(f"m@{seq}"))


@pytest.fixture
def said(world: World) -> World:
    """A version with all the changes, beside one with a tag."""
    publish(world.registry)
    publish(world.registry, state=weights(2))
    for change in CHANGES:
        world.registry.annotate(id_of(world), change)
    world.registry.annotate(id_of(world, 2), TagsChanged(set={"other": "one"}))
    return world


def test_what_is_said_adds_up_on_the_store_and_in_the_catalog(said: World) -> None:
    assert said.catalog.notes.get(MODEL, "m", 1) == SAID
    for registry in (said.registry, said.new_registry()):
        assert registry.notes(id_of(said)) == SAID
        assert registry.notes(id_of(said, 2)) == Notes(tags={"other": "one"})
    shown = said.catalog.versions.get(MODEL, "m", 1)
    assert (shown.stage, shown.tags) == (Stage.PRODUCTION, {"team": "speech"})


def test_an_empty_catalog_is_rebuilt_to_the_same(said: World) -> None:
    said.registry.set_alias(MODEL, "m", "champion", 2)
    publish(said.registry)
    said.registry.annotate(id_of(said, 3), TagsChanged(set={"doomed": "yes"}))
    said.registry.delete(MODEL, "m", 3, "bad")
    with said.new_catalog() as empty:
        said.new_registry(catalog=empty).heal()
        assert empty.versions.list(MODEL, "m", deleted=True) == said.catalog.versions.list(MODEL, "m", deleted=True)
        assert empty.versions.assets(MODEL) == said.catalog.versions.assets(MODEL)
        assert empty.marks.all() == said.catalog.marks.all()
        for seq in (1, 2, 3):
            assert empty.notes.get(MODEL, "m", seq) == said.catalog.notes.get(MODEL, "m", seq)
        assert empty.notes.get(MODEL, "m", 3) == Notes()


def test_what_others_said_without_this_catalog_is_healed_in_order(world: World) -> None:
    publish(world.registry)
    for change in CHANGES:
        world.new_registry().annotate(id_of(world), change)
    assert world.catalog.notes.get(MODEL, "m", 1) == Notes()
    assert world.registry.heal() == len(CHANGES)
    assert world.registry.heal() == 0
    assert world.catalog.notes.get(MODEL, "m", 1) == SAID


def test_nothing_that_is_said_is_readable_on_the_store(said: World) -> None:
    mid = said.registry.mid(MODEL, "m")
    for name in said.names(annotations_prefix(mid)):
        payload = json.dumps(signed_payload(said.store.get(name)))
        for secret in ("vision", "speech", "team", "Digits", "letters", "rows", "test_accuracy", "production"):
            assert secret not in payload


def test_many_annotate_at_once_and_nothing_is_lost(world: World) -> None:
    publish(world.registry)
    id, ready = id_of(world), threading.Barrier(4)

    def work(me: int) -> Callable[[], None] | None:
        registry = world.new_registry(catalog=world.catalog)
        ready.wait(30)
        for turn in range(4):
            registry.annotate(id, TagsChanged(set={f"t{me}-{turn}": "x"}))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(world.registry.notes(id).tags) == 16
    assert world.catalog.notes.get(MODEL, "m", 1) == world.registry.notes(id)


@pytest.mark.parametrize(
    "change",
    [
        TagsChanged(),
        TagsChanged(set={"": "x"}),
        TagsChanged(set={"Upper": "x"}),
        TagsChanged(set={"a=b": "x"}),
        TagsChanged(set={"a": ""}),
        TagsChanged(set={"a": "two\nlines"}),
        TagsChanged(set={"a": "x" * 257}),
        TagsChanged(set={"a": "x"}, unset=("a",)),
        TextChanged(),
    ],
    ids=repr,
)
def test_what_cannot_be_said_is_refused_and_nothing_is_written(world: World, change: Change) -> None:
    publish(world.registry)
    with pytest.raises(RequestError):
        world.registry.annotate(id_of(world), change)
    assert world.names(annotations_prefix(world.registry.mid(MODEL, "m"))) == []


def test_nothing_is_said_of_a_deleted_version(said: World) -> None:
    id = id_of(said)
    said.registry.delete(MODEL, "m", 1, "bad")
    with pytest.raises(NotFoundError, match="deleted"):
        said.registry.annotate(id, TagsChanged(set={"a": "b"}))
    assert said.catalog.notes.get(MODEL, "m", 1) == Notes()
    assert said.registry.notes(id_of(said, 2)).tags == {"other": "one"}


def test_hidden_annotations_are_missed_and_nothing_is_said_on_top(said: World) -> None:
    mid = said.registry.mid(MODEL, "m")
    said.store.delete(annotation_name(mid, len(CHANGES) + 1))
    for ask in (
        lambda: said.registry.notes(id_of(said)),
        lambda: said.registry.annotate(id_of(said), TagsChanged(set={"a": "b"})),
    ):
        with pytest.raises(IntegrityError, match="rolled back"):
            ask()


def test_healing_stops_at_an_annotation_that_does_not_verify(said: World) -> None:
    path = said.path(annotation_name(said.registry.mid(MODEL, "m"), 3))
    path.write_bytes(path.read_bytes()[:-9])
    with said.new_catalog() as empty:
        said.new_registry(catalog=empty).heal()
        assert empty.notes.get(MODEL, "m", 1) == Notes().after(CHANGES[0]).after(CHANGES[1])


# -- aliases that look back ----------------------------------------------------


@pytest.fixture
def moved(world: World) -> World:
    for n in range(3):
        publish(world.registry, state=weights(n))
    for seq in (1, 3, 2):
        world.registry.set_alias(MODEL, "m", "champion", seq)
    return world


def test_the_history_of_an_alias_names_when_from_to_and_whose_key(moved: World) -> None:
    moves = moved.registry.alias_history(MODEL, "m", "champion")
    assert [(m.n, m.source, m.target) for m in moves] == [(1, 0, 1), (2, 1, 3), (3, 3, 2)]
    assert {m.publisher for m in moves} == {moved.ring.signer.key_id}
    assert [m.at for m in moves] == sorted(m.at for m in moves)
    with pytest.raises(NotFoundError, match="champion"):
        moved.registry.alias_history(MODEL, "m", "nobody")


def test_a_rollback_moves_an_alias_back_and_is_undone_by_another(moved: World) -> None:
    assert moved.registry.roll_back(MODEL, "m", "champion").seq == 3
    assert moved.registry.roll_back(MODEL, "m", "champion").seq == 2
    assert moved.registry.roll_back(MODEL, "m", "champion", to=1).seq == 1
    assert [m.target for m in moved.registry.alias_history(MODEL, "m", "champion")] == [1, 3, 2, 3, 2, 1]
    assert moved.catalog.versions.asset(MODEL, "m").aliases == {"champion": 1}


def test_a_rollback_goes_only_where_the_alias_once_pointed(moved: World) -> None:
    publish(moved.registry)
    with pytest.raises(NotFoundError, match="never pointed at version 4"):
        moved.registry.roll_back(MODEL, "m", "champion", to=4)
    moved.registry.set_alias(MODEL, "m", "fresh", 1)
    with pytest.raises(NotFoundError, match="never pointed anywhere else"):
        moved.registry.roll_back(MODEL, "m", "fresh")
    moved.registry.delete(MODEL, "m", 3, "bad")
    with pytest.raises(NotFoundError, match="deleted"):
        moved.registry.roll_back(MODEL, "m", "champion")


def test_of_two_rollbacks_at_once_one_wins_or_both_see_each_other(moved: World) -> None:
    ready = threading.Barrier(2)

    def work(_: int) -> int | None:
        registry = moved.new_registry()
        ready.wait(30)
        try:
            return registry.roll_back(MODEL, "m", "champion").n
        except ConflictError:
            return None

    with ThreadPoolExecutor(2) as pool:
        won = [n for n in pool.map(work, range(2)) if n]
    assert won
    moves = moved.registry.alias_history(MODEL, "m", "champion")
    assert [m.n for m in moves] == list(range(1, 4 + len(won)))
