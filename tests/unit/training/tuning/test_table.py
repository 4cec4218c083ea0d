"""The table of trials, step by step, and what an attempt goes on from."""

from __future__ import annotations

import pytest

from lightmill.errors import RequestError
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.tuning import TrialTable
from lightmill.training.tuning.limits import Judged
from lightmill.training.tuning.table import Table, end_state
from tests.unit.records.test_tuning import spec_of


def checkpoint(seq: int) -> VersionId:
    return VersionId(kind=AssetKind.RUN, name="job-t000", seq=seq, digest="ab")


def loss(value: float) -> dict[str, float]:
    return {"validation_loss": value, "loss": value / 2}


def test_a_trial_from_its_beginning_to_its_end() -> None:
    kept: list[TrialTable] = []
    table = Table(spec_of(trials=2), "job", kept.append)
    table.add({"learning_rate": 0.1}, Judged(parameters=5))
    table.add({"learning_rate": 9.0}, Judged(reason="too large"))
    assert (table.taken, len(table), [t.number for t in table.waiting()]) == (1, 2, [0])
    table.began(0)
    values = {"learning_rate": 0.1}
    table.reported(0, 1, loss(0.5), checkpoint(1), values)
    table.reported(0, 2, loss(0.3), checkpoint(2), values)
    trial = table.reported(0, 3, loss(0.4), checkpoint(3), values)
    assert (trial.metric, trial.best_epoch, trial.epochs, trial.copied) == (0.3, 2, 3, 0)
    assert (trial.checkpoint, trial.last_checkpoint, trial.run) == (checkpoint(2), checkpoint(3), "job-t000")
    assert end_state(trial, spec_of().train) == "stopped"
    trial = table.reported(0, 4, loss(0.3), checkpoint(4), {"learning_rate": 0.2})
    assert (trial.best_epoch, trial.best_values, trial.copied) == (2, values, 1), "the earlier one of equals"
    assert end_state(trial, spec_of().train) == "done"
    table.finished(0, "done")
    assert table.ended == 1 and table.best == table[0]
    assert kept[-1] == table.record and kept[-1].best == 0
    assert [(t.state, t.reason, t.run) for t in kept[-1].trials] == [
        ("done", "", "job-t000"),
        ("refused", "too large", ""),
    ]


def test_a_higher_accuracy_is_better() -> None:
    table = Table(spec_of(metric="validation_accuracy"), "job", lambda _: None)
    for number, value in enumerate([0.2, 0.9, 0.9]):
        table.add({}, Judged())
        table.reported(number, 1, {"validation_accuracy": value}, checkpoint(1), {})
    assert table.best and table.best.number == 1


def test_a_metric_that_is_not_measured_is_named_with_those_that_are() -> None:
    table = Table(spec_of(metric="validation_f1"), "job", lambda _: None)
    table.add({}, Judged())
    with pytest.raises(RequestError, match=r"validation_f1.*loss, validation_loss"):
        table.reported(0, 1, loss(1.0), checkpoint(1), {})


def test_an_attempt_goes_on_with_what_had_not_ended_under_the_names_of_the_first() -> None:
    kept: list[TrialTable] = []
    table = Table(spec_of(trials=3), "first", kept.append)
    for number in range(3):
        table.add({"learning_rate": number + 1.0}, Judged())
        table.reported(number, 2, loss(1.0 - number / 10), checkpoint(number + 1), {"learning_rate": number + 1.0})
    table.finished(0, "stopped")
    table.finished(2, "failed", "out of memory")
    again = Table(
        spec_of(trials=3), "second", lambda _: None, TrialTable.model_validate_json(kept[-1].model_dump_json())
    )
    assert [trial.number for trial in again.waiting()] == [1]
    assert again.waiting()[0].last_checkpoint == checkpoint(2)
    assert (again.job, again.record.job, again.ended, again.taken) == ("first", "first", 2, 3)
