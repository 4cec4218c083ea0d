"""Somebody puts yesterday's bucket back: every object in it is genuine, and it is noticed everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightmill.errors import IntegrityError
from lightmill.records.care import Problem
from lightmill.registry import Registry, initialize_store, read_store_id
from lightmill.registry.care import CheckOptions, backup, check, repair, rolled_back
from lightmill.registry.names import alias_name, record_name
from lightmill.storage import LocalStore
from lightmill.vault import KeyRing
from tests.attacks.stage import RUN, files, publish
from tests.unit.registry.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    for n in range(2):
        publish(made.registry, "r", files(n))
    made.registry.set_alias(RUN, "r", "best", 1)
    return made


def test_yesterday_s_bucket_is_noticed_by_readers_publishers_checks_and_backups(world: World, tmp_path: Path) -> None:
    yesterday = world.copy_of_store("yesterday")
    publish(world.registry, "r", files(2))
    world.registry.set_alias(RUN, "r", "best", 3)
    copy = LocalStore(tmp_path / "copy", fsync=lambda _: None)
    backup(world.store, copy, world.ring.trusted)
    mid = world.registry.mid(RUN, "r")
    gone = {record_name(mid, 3), alias_name(mid, "best", 2)}

    back = Registry(yesterday, world.ring, "default", world.store_id, world.catalog)
    for act in (
        lambda: back.latest(RUN, "r"),
        lambda: publish(back, "r", files(9)),
        lambda: back.aliases(RUN, "r"),
        lambda: back.set_alias(RUN, "r", "best", 2),
    ):
        with pytest.raises(IntegrityError, match="rolled back"):
            act()
    marks = world.catalog.marks.all()
    assert {finding.object for finding in rolled_back(yesterday, marks)} == gone
    found = check(yesterday, world.ring.trusted, CheckOptions(marks=marks))
    assert {finding.object for finding in found.findings if finding.problem is Problem.MISSING} == gone
    assert check(yesterday, world.ring.trusted).harmful == (), "without a memory nobody can tell"
    with pytest.raises(IntegrityError, match="rolled back"):
        backup(yesterday, copy, world.ring.trusted)

    assert repair(yesterday, world.ring, [copy], marks=marks).lost == ()
    assert back.latest(RUN, "r") == 3 and back.aliases(RUN, "r") == {"best": 3}


def test_a_bucket_that_grew_another_way_since_yesterday_is_noticed(world: World) -> None:
    """The thief publishes with the stolen ring on yesterday's bucket, so that the numbers are right."""
    yesterday = world.copy_of_store("yesterday")
    publish(world.registry, "r", files(2))
    publish(world.new_registry(store=yesterday), "r", files(66))
    marks = world.catalog.marks.all()
    (finding,) = check(yesterday, world.ring.trusted, CheckOptions(marks=marks)).harmful
    assert finding.object == record_name(world.registry.mid(RUN, "r"), 3) and "rewritten" in finding.detail
    with pytest.raises(IntegrityError, match="rewritten"):
        Registry(yesterday, world.ring, "default", world.store_id, world.catalog).latest(RUN, "r")


def test_another_store_in_the_place_of_this_one_is_noticed(world: World, tmp_path: Path) -> None:
    other = LocalStore(tmp_path / "other", fsync=lambda _: None)
    initialize_store(other)
    ring = KeyRing.create(tmp_path / "other.json")
    publish(Registry(other, ring, "default", read_store_id(other)), "r", files(0))
    assert len(rolled_back(other, world.catalog.marks.all())) == 2
