"""What is said of versions, on both databases: applied once, in order, or not at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lightmill.catalog import Catalog
from lightmill.errors import NotFoundError
from lightmill.records.annotations import Notes, Stage, StageChanged, TagsChanged, TextChanged
from lightmill.records.assets import Deletion, VersionSummary
from lightmill.records.references import AssetKind
from tests.unit.catalog.examples import run_together, version

MODEL, MID = AssetKind.MODEL, "mid-model-digits"


def tag(name: str) -> TagsChanged:
    return TagsChanged(set={name: "x"})


@pytest.fixture
def listed(catalog: Catalog) -> Catalog:
    for seq in (1, 2):
        catalog.versions.record(version("digits", seq), "default")
    return catalog


def test_changes_add_up_version_by_version(listed: Catalog) -> None:
    assert listed.notes.get(MODEL, "digits", 1) == Notes()
    changes = [(1, tag("a")), (2, tag("b")), (1, StageChanged(stage=Stage.STAGING)), (1, TextChanged(description="ä"))]
    for n, (seq, change) in enumerate(changes, start=1):
        assert listed.notes.apply(MID, seq, n, f"digest-{n}", change)
    notes = listed.notes.get(MODEL, "digits", 1)
    assert (notes.tags, notes.stage, notes.text.description) == ({"a": "x"}, Stage.STAGING, "ä")
    assert listed.notes.get(MODEL, "digits", 2) == Notes(tags={"b": "x"})
    assert listed.marks.get(MID, "k") == (4, "digest-4")
    shown = listed.versions.get(MODEL, "digits", 1)
    assert (shown.stage, shown.tags) == (Stage.STAGING, {"a": "x"})


def test_an_entry_is_applied_once_and_only_after_the_one_before(listed: Catalog) -> None:
    assert not listed.notes.apply(MID, 1, 2, "d2", tag("b"))
    assert listed.notes.apply(MID, 1, 1, "d1", tag("a"))
    for n in (1, 3):
        assert not listed.notes.apply(MID, 1, n, f"d{n}", tag("again"))
    assert listed.notes.get(MODEL, "digits", 1).tags == {"a": "x"}
    assert listed.marks.get(MID, "k") == (1, "d1")


def test_what_cannot_be_applied_does_not_raise_the_mark(listed: Catalog) -> None:
    with pytest.raises(NotFoundError, match="version 9"):
        listed.notes.apply(MID, 9, 1, "d1", tag("a"))
    assert listed.marks.get(MID, "k") is None
    with pytest.raises(NotFoundError):
        listed.notes.get(MODEL, "digits", 9)


def test_a_deleted_version_loses_its_notes_and_takes_no_more(listed: Catalog) -> None:
    listed.notes.apply(MID, 1, 1, "d1", tag("a"))
    summary = version("digits", 1)
    said = Deletion(at="t", reason="bad", publisher="p")
    stub = VersionSummary(id=summary.id, mid=MID, created="t", size_bytes=3, deleted=said)
    for _ in range(2):
        listed.versions.record_deleted(stub, "default")
    assert listed.notes.apply(MID, 1, 2, "d2", tag("b"))
    assert listed.notes.apply(MID, 1, 3, "d3", None)
    assert listed.notes.get(MODEL, "digits", 1) == Notes()
    assert listed.versions.get(MODEL, "digits", 1) == stub
    assert listed.versions.recorded(MID) == {1: True, 2: False} == listed.versions.known()[MID]
    listed.versions.record(summary, "default")
    assert listed.versions.get(MODEL, "digits", 1) == stub
    assert listed.marks.below(MID, "k") == {"k": (3, "d3")}


def apply_all(wait: Callable[[], None], url: str, me: int) -> int:
    with Catalog.open(url) as catalog:
        catalog.facts.get("warm")
        wait()
        return sum(catalog.notes.apply(MID, 1, n, f"d{n}", tag(f"t{n}")) for n in range(1, 31))


def test_processes_that_apply_the_same_log_apply_each_entry_once(url: str, listed: Catalog) -> None:
    applied = run_together(apply_all, *((url, me) for me in range(2)))
    done = listed.marks.get(MID, "k")
    assert done is not None and sum(applied) == done[0] == len(listed.notes.get(MODEL, "digits", 1).tags)
