"""Tuning specifications: what is taken, what is refused before anything runs, and the table of trials."""

from __future__ import annotations

from typing import Any

import pytest

from lightmill.errors import RequestError
from lightmill.records.specs import parse_spec
from lightmill.records.tuning import Trial, TrialTable, TuneSpec

TRAIN = {"model": "m", "dataset": "d@1", "architecture": {"name": "mlp", "arguments": {"hidden": [8]}}, "epochs": 4}
RATE = {"learning_rate": {"loguniform": [1e-4, 1e-1]}}


def spec_of(train: dict[str, Any] | None = None, **more: Any) -> TuneSpec:
    return parse_spec(TuneSpec, {"train": TRAIN | (train or {}), "search": RATE, **more}, "tune.yaml")


def test_trials_have_one_worker_unless_told_otherwise_and_the_metric_s_name_tells_the_direction() -> None:
    assert spec_of().train.workers == 1
    assert spec_of({"workers": 2}).train.workers == 2
    assert spec_of().direction == "min" and spec_of(metric="validation_accuracy").direction == "max"
    assert spec_of(metric="speed", mode="max").direction == "max"


def test_a_specification_comes_back_from_json_the_same() -> None:
    found = spec_of(algorithm="asha", trials=3, limits={"parameters": 9})
    assert TuneSpec.model_validate(found.model_dump(mode="json")) == found


def test_values_go_to_their_fields() -> None:
    found = spec_of().with_values(
        {"learning_rate": 0.5, "architecture.arguments.hidden": [3, 4], "optimizer.name": "sgd", "clip_norm": 1.0}
    )
    assert (found.learning_rate, found.optimizer.name, found.clip_norm) == (0.5, "sgd", 1.0)
    assert found.architecture.arguments == {"hidden": [3, 4]}
    with pytest.raises(RequestError, match=r"learning_rate -1.*learning_rate"):
        spec_of().with_values({"learning_rate": -1})


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({}, "at least 1"),
        ({"learning_rate": {}}, "give one of"),
        ({"learning_rate": {"uniform": [0.1, 0.2], "choice": [1]}}, "not uniform and choice"),
        ({"learning_rate": {"uniform": [0.2, 0.1]}}, "smaller number first"),
        ({"learning_rate": {"loguniform": [0, 1]}}, "no logarithm"),
        ({"learning_rate": {"uniform": [-1, 1]}}, "search.learning_rate: -1.0"),
        ({"learning_rate": {"choice": []}}, "no values"),
        ({"learning_rate": {"choice": [0.1], "step": 2}}, "step goes with integer"),
        ({"learning_rat": {"choice": [0.1]}}, "no field 'learning_rat'"),
        ({"optimizer.nam": {"choice": ["sgd"]}}, "optimizer has no field 'nam'"),
        ({"optimizer.name": {"choice": ["sgd", "fly"]}}, "'fly'"),
        ({"early_stopping.patience": {"choice": [1]}}, "write it under train first"),
        ({"seed.x": {"choice": [1]}}, "has no fields"),
        ({"dataset": {"choice": ["a", "b"]}}, "same for all trials"),
        ({"resources.cpus": {"choice": [1, 2]}}, "same for all trials"),
    ],
)
def test_a_search_that_cannot_work_is_refused_by_its_field(search: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse_spec(TuneSpec, {"train": TRAIN, "search": search}, "tune.yaml")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"algorithm": "grid"}, "a grid has lists only.*learning_rate"),
        ({"algorithm": "grid", "search": {"seed": {"choice": [1, 2]}}, "trials": 3}, "more than the 2 combinations"),
        ({"algorithm": "pbt", "search": {"learning_rate": {"grid": [1, 2]}}}, "does not take grids"),
        ({"algorithm": "pbt", "search": {"architecture.arguments.hidden": {"choice": [[1], [2]]}}}, "hidden cannot"),
        ({"algorithm": "pbt", "train": TRAIN | {"workers": 2}}, "one worker, not of 2"),
        ({"algorithm": "asha", "search": {"epochs": {"choice": [1, 2]}}}, "compares trials by epochs"),
        ({"metric": "speed"}, "give mode"),
        ({"limits": {"parameters": 0}}, "limits.parameters"),
        ({"algorithm": "guess"}, "algorithm"),
    ],
)
def test_an_algorithm_that_does_not_fit_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse_spec(TuneSpec, {"train": TRAIN, "search": RATE, **more}, "tune.yaml")


def test_a_grid_has_as_many_trials_as_combinations() -> None:
    search = {"seed": {"choice": [1, 2, 3]}, "batch_size": {"grid": [8, 16]}}
    assert spec_of(search=search, algorithm="grid").trial_count == 6
    assert spec_of(search=search, algorithm="grid", trials=4).trial_count == 4
    assert (spec_of(search=search).combinations, spec_of(search=search).trial_count) == (2, 10)


@pytest.mark.parametrize(("mode", "order"), [("min", [2, 0, 3, 1]), ("max", [0, 3, 2, 1])])
def test_trials_are_ranked_with_the_earlier_of_equals_first(mode: Any, order: list[int]) -> None:
    metrics = [0.5, None, 0.1, 0.5]
    trials = tuple(Trial(number=n, values={}, metric=metric) for n, metric in enumerate(metrics))
    table = TrialTable(job="j", metric="x", mode=mode, wanted=4, algorithm="random", trials=trials)
    assert [trial.number for trial in table.ranked()] == order
