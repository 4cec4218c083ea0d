"""Configurations are judged before they train; those that break a limit are replaced; Optuna learns from the table."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from ray.tune.schedulers import TrialScheduler

from lightmill.errors import RequestError
from lightmill.records.jobs import EpochMetrics
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.tuning import LimitSpec, TuneSpec, Values
from lightmill.training.tuning.algorithms import remember, scheduler_of
from lightmill.training.tuning.limits import PASSES, WARM_PASSES, Judged, latency_ms, within
from lightmill.training.tuning.proposing import OptunaProposer, propose_all
from lightmill.training.tuning.table import Table
from tests.unit.records.test_tuning import spec_of

CHECKPOINT = VersionId(kind=AssetKind.RUN, name="r", seq=1, digest="ab")
SEARCH = {"learning_rate": {"loguniform": [1e-4, 1.0]}, "optimizer.name": {"choice": ["sgd", "adamw"]}}


class AtMost:
    """Refuses learning rates above a limit, and counts what it was asked."""

    def __init__(self, most: float) -> None:
        self.most = most
        self.asked = 0

    def judge(self, values: Values) -> Judged:
        self.asked += 1
        rate = values["learning_rate"]
        assert isinstance(rate, float)
        return Judged(reason="" if rate <= self.most else f"{rate} is too high")


def table_of(spec: TuneSpec) -> Table:
    return Table(spec, "job", lambda _: None)


def test_refused_configurations_are_replaced_by_others() -> None:
    spec = spec_of(search=SEARCH, trials=6)
    judge, table = AtMost(0.01), table_of(spec)
    propose_all(spec, judge, table)  # pyright: ignore[reportArgumentType]
    assert table.taken == 6 and len(table) > 6
    assert all((t.state == "waiting") == (t.values["learning_rate"] <= 0.01) for t in table.record.trials)


def test_what_a_table_has_already_is_not_judged_again() -> None:
    spec = spec_of(search=SEARCH, trials=6)
    whole, half = table_of(spec), table_of(spec)
    propose_all(spec, AtMost(0.01), whole)  # pyright: ignore[reportArgumentType]
    for trial in whole.record.trials[:4]:
        half.add(trial.values, Judged(reason=trial.reason))
    judge = AtMost(0.01)
    propose_all(spec, judge, half)  # pyright: ignore[reportArgumentType]
    assert [t.values for t in half.record.trials] == [t.values for t in whole.record.trials]
    assert judge.asked == len(whole) - 4


def test_it_is_an_error_if_all_are_refused() -> None:
    spec = spec_of(search=SEARCH, trials=2)
    with pytest.raises(RequestError, match=r"All 100 configurations were refused.*too high"):
        propose_all(spec, AtMost(0.0), table_of(spec))  # pyright: ignore[reportArgumentType]


def test_limits_say_which_is_broken() -> None:
    both = LimitSpec(parameters=1000, latency_ms=2.0)
    assert within(both, 1000, 2.0) is None
    assert within(both, 1001, 1.0) == "1,001 parameters are more than the limit of 1,000"
    assert within(both, 10, 2.5) == "2.5 ms for a row are more than the limit of 2 ms"
    assert within(LimitSpec(), 10**12, None) is None


def test_latency_is_the_median_pass_on_one_thread() -> None:
    ticks = itertools.count()
    durations = [0.003] * (PASSES // 2) + [0.004] + [0.9] * (PASSES // 2)
    times: list[float] = [0.0]
    for duration in durations:
        times += [times[-1], times[-1] + duration]
    seen: list[tuple[bool, int]] = []
    before = torch.get_num_threads()
    module = torch.nn.Dropout()
    found = latency_ms(
        module, lambda one: seen.append((one.training, torch.get_num_threads())), lambda: times[next(ticks) + 1]
    )
    assert found == pytest.approx(4.0)
    assert seen == [(False, 1)] * (PASSES + WARM_PASSES) and torch.get_num_threads() == before


def test_optuna_is_asked_one_by_one_told_what_came_and_goes_on_from_a_table() -> None:
    pytest.importorskip("optuna", reason="optuna is not installed")
    spec = spec_of(search=SEARCH, algorithm={"name": "optuna", "startup": 3}, trials=12)
    table = table_of(spec)
    proposer = OptunaProposer(spec, AtMost(0.5), table)  # pyright: ignore[reportArgumentType]
    run(proposer, table, 7)
    again = Table(spec, "again", lambda _: None, table.record)
    more = OptunaProposer(spec, AtMost(0.5), again)  # pyright: ignore[reportArgumentType]
    run(more, again, 20)
    assert again.taken == again.ended == 12
    assert all(t.values["learning_rate"] <= 0.5 for t in again.record.trials if t.state == "done")
    assert len({t.values["learning_rate"] for t in again.record.trials}) == len(again)


def run(proposer: OptunaProposer, table: Table, most: int) -> None:
    """Ask for trials and pretend to have trained them."""
    for number in range(most):
        point = proposer.suggest(str(number))
        if point == "FINISHED":
            return
        place, values = point["point"]["number"], point["point"]["values"]
        table.reported(place, 1, {"validation_loss": values["learning_rate"]}, CHECKPOINT, values)
        table.finished(place, "done")
        proposer.on_trial_complete(str(number))


class Named:
    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def test_successive_halving_compares_with_trials_of_an_earlier_attempt() -> None:
    spec = spec_of({"epochs": 9}, algorithm={"name": "asha", "reduction": 3})
    table = table_of(spec)
    earlier = []
    for number in range(3):
        trial = table.add({}, Judged())
        epochs = [EpochMetrics(run=trial.run, epoch=1, metrics={"validation_loss": 0.1 * (number + 1)}, created="now")]
        earlier.append((trial, epochs))

    def decided(remembered: bool, loss: float) -> str:
        scheduler = scheduler_of(spec)
        if remembered:
            remember(scheduler, spec, earlier)
        one: Any = Named("new")
        scheduler.on_trial_add(None, one)  # pyright: ignore[reportArgumentType]
        return scheduler.on_trial_result(None, one, {"epoch": 1, "validation_loss": loss})  # pyright: ignore

    assert decided(False, 0.9) == TrialScheduler.CONTINUE, "the first of all is not compared"
    assert decided(True, 0.9) == TrialScheduler.STOP
    assert decided(True, 0.05) == TrialScheduler.CONTINUE


def test_population_based_training_changes_values_inside_their_bounds() -> None:
    spec = spec_of(search={"learning_rate": {"loguniform": [0.01, 0.02]}}, algorithm="pbt", trials=4)
    scheduler: Any = scheduler_of(spec)
    config = {"point": {"number": 3, "values": {"learning_rate": 0.02}, "start": None}, "context": "{}"}

    class Donor:
        pass

    donor: Any = Donor()
    donor.config = config
    for _ in range(50):
        found, _operations = scheduler._get_new_config(donor, donor)
        assert 0.01 <= found["point"]["values"]["learning_rate"] <= 0.02
    assert config["point"]["values"] == {"learning_rate": 0.02}
