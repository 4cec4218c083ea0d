"""The promotion policy: a table."""

from __future__ import annotations

import pytest

from lightmill.records.annotations import Evaluation, Notes, Stage
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.search import parse_comparisons
from lightmill.registry.promotion import Decision, decide

DATASET = VersionId(kind=AssetKind.DATASET, name="rows", seq=3, digest="ab" * 32)


def evaluation(split: str = "test", **metrics: float) -> Evaluation:
    said = {"dataset": DATASET, "split": split, "metrics": metrics, "created": "t", "by": "run r"}
    return Evaluation.model_validate(said)


def notes(*evaluations: Evaluation, stage: Stage = Stage.NONE) -> Notes:
    return Notes(stage=stage, evaluations=evaluations)


GOOD, BAD = evaluation(accuracy=0.95, loss=0.1), evaluation(accuracy=0.7, loss=0.9)


@pytest.mark.parametrize("stage", [Stage.NONE, Stage.STAGING, Stage.ARCHIVED])
@pytest.mark.parametrize("now", list(Stage))
def test_all_stages_but_production_need_nothing(now: Stage, stage: Stage) -> None:
    assert decide(notes(stage=now), stage, parse_comparisons("accuracy>=1")) == Decision()


@pytest.mark.parametrize("now", [Stage.NONE, Stage.STAGING, Stage.PRODUCTION])
def test_production_needs_an_evaluation_on_held_out_rows(now: Stage) -> None:
    for said in (notes(stage=now), notes(evaluation("train", accuracy=1.0), stage=now)):
        assert decide(said, Stage.PRODUCTION).missing == ("an evaluation on the validation or test split",)
    assert decide(notes(BAD, GOOD, stage=now), Stage.PRODUCTION) == Decision(evidence=GOOD)


def test_every_required_condition_holds_in_one_evaluation() -> None:
    required = parse_comparisons("accuracy>=0.9, loss<=0.2")
    assert decide(notes(GOOD, BAD), Stage.PRODUCTION, required) == Decision(evidence=GOOD)
    halves = notes(evaluation(accuracy=0.99), evaluation("validation", loss=0.01))
    decision = decide(halves, Stage.PRODUCTION, required)
    assert decision.evidence is None
    (missing,) = decision.missing
    assert "accuracy>=0.9" in missing and "rows@3 validation" in missing and "not measured" in missing
    assert [text.split()[0] for text in decide(notes(BAD), Stage.PRODUCTION, required).missing] == [
        "accuracy>=0.9",
        "loss<=0.2",
    ]
    assert "measured 0.7" in decide(notes(BAD), Stage.PRODUCTION, required).missing[0]


def test_what_was_archived_goes_back_through_staging() -> None:
    decision = decide(notes(GOOD, stage=Stage.ARCHIVED), Stage.PRODUCTION)
    assert decision.evidence is None and "staging" in decision.missing[0]
