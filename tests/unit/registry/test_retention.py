"""Retention: what a policy says of versions, stepped by hand, and what it does to a real store."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lightmill.errors import NotFoundError
from lightmill.records.annotations import Evaluated, Evaluation, Stage, TagsChanged
from lightmill.records.assets import VersionSummary
from lightmill.records.references import AssetKind, Reference, VersionId
from lightmill.records.retention import RetentionPlan, RetentionPolicy
from lightmill.registry.retention import Held, apply_retention, decide, plan_retention
from tests.attacks.scene import dataset_card, publish_dataset, table
from tests.unit.registry.world import World, seal, weights

NOW = "2026-03-31T00:00:00.000Z"
DATASET, MODEL = AssetKind.DATASET, AssetKind.MODEL


def held(seq: int, day: int = 1, **more: object) -> Held:
    about = {key: more.pop(key) for key in ("tags", "stage") if key in more}
    version = VersionSummary(
        id=VersionId(kind=DATASET, name="d", seq=seq, digest=f"{seq:064d}"),
        mid="m",
        created=f"2026-03-{day:02d}T00:00:00.000Z",
        size_bytes=1,
        **about,  # pyright: ignore[reportArgumentType]
    )
    return Held(version=version, **more)  # pyright: ignore[reportArgumentType]


def going(versions: list[Held], **policy: object) -> list[int]:
    found = decide(versions, RetentionPolicy.model_validate(policy), NOW)
    assert [one.version.seq for one in found] == sorted((h.version.id.seq for h in versions), reverse=True)
    assert all(one.why for one in found)
    return sorted(one.version.seq for one in found if not one.keep)


def test_the_last_and_the_young_stay() -> None:
    versions = [held(1, 1), held(2, 10), held(3, 20), held(4, 30)]
    assert going(versions, keep_last=2) == [1, 2]
    assert going(versions, keep_days=15) == [1, 2]
    assert going(versions, keep_days=25) == [1]
    assert going(versions, keep_last=2, keep_days=25) == [1]
    assert going(versions, keep_days=0) == [1, 2, 3]  # the newest stays whatever is said


def test_what_is_used_named_or_tagged_stays() -> None:
    versions = [
        held(1, users=("alias 'gold'",)),
        held(2, made=("model m@1", "model m@2")),
        held(3, evaluated=("model m@3",)),
        held(4, tags={"keep": "me"}),
        held(5, stage=Stage.PRODUCTION),
        held(6, stage=Stage.ARCHIVED),
        held(7),
    ]
    assert going(versions, keep_last=1) == [4, 5, 6]
    assert going(versions, keep_last=1, keep_tagged=True) == [6]
    assert going(versions, keep_last=1, even_if_used=True) == [2, 3, 4, 5, 6]
    why = {one.version.seq: one.why for one in decide(versions, RetentionPolicy(keep_last=1), NOW)}
    assert why[1] == ("alias 'gold' uses it",) and why[2] == ("model m@1, model m@2 were made from it",)


def test_a_policy_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="keep_last, keep_days"):
        RetentionPolicy(keep_tagged=True)


@given(
    st.lists(st.tuples(st.integers(1, 28), st.booleans(), st.booleans()), max_size=20),
    st.integers(1, 5),
    st.integers(0, 30),
)
def test_more_to_keep_never_lets_more_go(rows: list[tuple[int, bool, bool]], last: int, days: int) -> None:
    versions = [
        held(n, day, users=("alias 'a'",) if used else (), made=("model m@1",) if made else ())
        for n, (day, used, made) in enumerate(rows, 1)
    ]
    both = set(going(versions, keep_last=last, keep_days=days))
    assert both <= set(going(versions, keep_last=last)) & set(going(versions, keep_days=days))
    assert len(versions) not in both
    assert not both & {n for n, (_, used, made) in enumerate(rows, 1) if used or made}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Four dataset versions: 1 was trained on, 2 has an alias, 3 was evaluated on, and 4 has a tag; then two more."""
    found = World(tmp_path)
    registry = found.registry
    ids = [publish_dataset(registry, "d", table(n), dataset_card()) for n in range(6)]
    draft = registry.begin(MODEL, "m")
    content = seal(draft, weights())
    provenance = content.provenance.model_copy(update={"dataset": ids[0]})
    from dataclasses import replace

    model = registry.commit(draft, replace(content, provenance=provenance)).id
    registry.set_alias(DATASET, "d", "gold", 2)
    evaluation = Evaluation(dataset=ids[2], split="test", metrics={"accuracy": 0.5}, created="now", by="me")
    registry.annotate(model, Evaluated(evaluation=evaluation))
    registry.annotate(ids[3], TagsChanged(set={"kind": "gold"}))
    return found


def planned(world: World, kind: AssetKind = DATASET, name: str = "d", **policy: object) -> RetentionPlan:
    policy_record = RetentionPolicy.model_validate(policy)
    return plan_retention(world.registry, world.catalog, kind, name, policy_record, "2199-01-01T00:00:00.000Z")


def test_a_plan_deletes_nothing_and_its_application_what_it_says(world: World) -> None:
    plan = planned(world, keep_last=1, keep_tagged=True)
    assert [one.version.seq for one in plan.decisions if not one.keep] == [5]
    assert not plan.applied and world.registry.deleted(DATASET, "d") == set()
    done = apply_retention(world.registry, plan)
    assert done.applied and done.deleted == ("d@5",) and done.refused == {}
    with pytest.raises(NotFoundError, match="retention: keep the last 1, keep what has tags"):
        world.registry.resolve(DATASET, Reference(name="d", selector="5"))
    again = planned(world, keep_last=1, keep_tagged=True)
    assert [one.version.seq for one in again.decisions] == [6, 4, 3, 2, 1] and all(one.keep for one in again.decisions)


def test_what_lineage_needs_goes_only_when_told(world: World) -> None:
    plan = planned(world, keep_last=1, even_if_used=True)
    why = {one.version.seq: one.why for one in plan.decisions if not one.keep}
    assert set(why) == {1, 3, 4, 5} and "its use by model m@1 does not count" in why[1]
    assert apply_retention(world.registry, plan).deleted == ("d@1", "d@3", "d@4", "d@5")


def test_a_version_that_is_taken_up_meanwhile_stays(world: World) -> None:
    plan = planned(world, keep_last=1)
    world.registry.set_alias(DATASET, "d", "late", 5)
    done = apply_retention(world.registry, plan)
    assert done.deleted == ("d@4",) and "alias 'late'" in done.refused["d@5"]


def test_models_have_retention_too_and_an_unknown_name_is_an_error(world: World) -> None:
    assert [one.keep for one in planned(world, MODEL, "m", keep_last=1).decisions] == [True]
    with pytest.raises(NotFoundError):
        planned(world, name="nobody", keep_last=1)
