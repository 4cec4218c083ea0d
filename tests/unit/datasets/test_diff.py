"""Two versions of a dataset compared: what is planted is found, what is the same is not named."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from lightmill.datasets.described import described
from lightmill.datasets.diff import diff
from lightmill.errors import RequestError
from lightmill.records.assets import SourceFile, VersionSummary
from lightmill.records.dataset_versions import DatasetDiff
from lightmill.records.references import VersionId
from tests.unit.datasets.published import HIDDEN, SPEC, People, publish
from tests.unit.registry.world import World
from tests.unit.registry.world import publish as publish_model


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def compared(world: World, old: People, new: People) -> DatasetDiff:
    return between(world, publish(world.registry, old), publish(world.registry, new))


def between(world: World, old: VersionSummary, new: VersionSummary) -> DatasetDiff:
    return diff(described(world.registry.open(old.id)), described(world.registry.open(new.id)))


def test_equal_versions_differ_in_nothing(world: World) -> None:
    found = compared(world, People(), People())
    assert (found.columns, found.counts, found.sources, found.preparation, found.notes) == ((), (), (), (), ())
    assert all(shift.size == 0 and not shift.mean_shift for shift in found.shifts)


def test_declared_columns(world: World) -> None:
    spec = copy.deepcopy(SPEC)
    spec["columns"][0] |= {"maximum": 99, "dtype": "float32"}
    spec["columns"][2]["role"] = "ignore"
    spec["columns"].append({"name": "height", "dtype": "float64", "role": "ignore"})
    new = publish(world.registry, People(), "other")
    changed = publish(world.registry, People())
    known = described(world.registry.open(new.id))
    spec_record = known.manifest.provenance.model_copy(update={"spec": {**known.spec, "columns": spec["columns"]}})
    moved = known.manifest.model_copy(update={"provenance": spec_record})
    found = diff(
        described(world.registry.open(changed.id)),
        type(known)(id=known.id, manifest=moved, card=known.card, profile=known.profile),
    )
    seen = {(change.what, change.field): (change.old, change.new) for change in found.columns}
    assert seen == {
        ("age", "dtype"): ("float64", "float32"),
        ("age", "maximum"): ("120", "99"),
        ("mail", "role"): ("key", "ignore"),
        ("height", "column"): (None, "float64, ignore"),
    }


def test_counts_by_split_class_and_reason(world: World) -> None:
    found = compared(world, People(rows=300), People(rows=600))
    counts = {(change.group, change.name): (change.old, change.new) for change in found.counts}
    assert counts["rows", "kept"] == (300, 600) and counts["split", "train"] == (100, 200)
    assert ("class", "yes") in counts and ("dropped", "missing value") not in counts


def test_distributions_the_largest_change_first(world: World) -> None:
    old = People(rows=3000, seed=1)
    found = compared(world, old, People(rows=3000, seed=2, age=60, lands=(0.45, 0.35, 0.2)))
    by_name = {shift.name: shift for shift in found.shifts}
    assert found.shifts[0].name == "age"
    age, land, mail = by_name["age"], by_name["land"], by_name["mail"]
    assert age.kind == "numbers" and age.mean_shift == pytest.approx(2, rel=0.1) and (age.psi or 0) > 1
    assert land.kind == "categories" and land.bins == 3 and 0 < (land.psi or 0) < 0.1
    assert mail.kind == "counts" and mail.psi is None and mail.old_mean is None
    assert HIDDEN not in found.model_dump_json()
    gaps = compared(world, old, People(rows=3000, seed=1, missing=0.4))
    assert gaps.shifts[0].name == "age" and gaps.shifts[0].new_missing == pytest.approx(0.4, abs=0.05)


def test_sources_by_name_and_digest(world: World) -> None:
    files = {name: SourceFile(name=name, size_bytes=1, sha256=f"{n}") for n, name in enumerate("abc")}
    old = People(sources=(files["a"], files["b"]))
    new = People(sources=(files["a"].model_copy(update={"sha256": "x"}), files["c"]))
    found = compared(world, old, new)
    assert [(change.name, change.change) for change in found.sources] == [
        ("a", "changed"),
        ("b", "removed"),
        ("c", "added"),
    ]


def test_preparation_by_step(world: World) -> None:
    spec = copy.deepcopy(SPEC)
    spec["prepare"][0]["with"] = "mean"
    spec["split"] = {"by": "random", "seed": 4}
    found = compared(world, People(), People(spec=spec))
    seen = {(change.what, change.field): (change.old, change.new) for change in found.preparation}
    assert seen["prepare", "1.with"] == ("median", "mean")
    assert seen["split", "by"] == ("stratified", "random")


def test_a_version_without_profile_is_compared_as_far_as_it_goes(world: World) -> None:
    found = compared(world, People(profile=False), People(rows=600))
    assert found.shifts == () and found.counts and "people@1 has no profile" in found.notes[0]


def test_what_is_no_dataset_is_refused(world: World) -> None:
    model: VersionId = publish_model(world.registry).id
    with pytest.raises(RequestError, match="no dataset"):
        described(world.registry.open(model))
