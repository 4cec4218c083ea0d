"""One worker of a run, alone, on a real sealed dataset: what it reports, and that it goes on as if never stopped."""

from __future__ import annotations

import math
import re
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightmill.errors import JobError
from lightmill.records.references import VersionId
from lightmill.registry.tensors import load_tensors
from lightmill.training.keeping import checkpoints_of, newest_checkpoint, ranked
from lightmill.training.loop import Worker, evaluate, run_epochs
from lightmill.training.objectives import CrossEntropy
from lightmill.training.session import LoneSession
from lightmill.training.team import Team
from tests.unit.training.sealed_rows import Sealed, seal_rows

MANY = {"train": (60, 41), "validation": (30,), "test": (10,)}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return seal_rows(tmp_path_factory.mktemp("looped"), MANY, extra=0.001)


KEEP = {"keep_last": 1000, "pause_s": 0}
runs = count()


def trained(sealed: Sealed, folder: Path, start: VersionId | None = None, **more: Any) -> LoneSession:
    """Train as a run of its own, which keeps all checkpoints unless `checkpoints` say otherwise."""
    session = LoneSession(start)
    more = {"checkpoints": KEEP} | more
    run_epochs(sealed.config(folder, f"run-{next(runs)}", **more), Team.alone(), session)
    return session


def weights(sealed: Sealed, id: VersionId) -> dict[str, torch.Tensor]:
    return load_tensors(sealed.world.new_registry().open(id))


def test_epochs_lower_the_loss_and_report_means_over_rows(sealed: Sealed, tmp_path: Path) -> None:
    session = trained(sealed, tmp_path, epochs=10, learning_rate=0.5)
    first, last = session.reports[0], session.reports[-1]
    assert [report["epoch"] for report in session.reports] == list(range(1, 11))
    assert last["loss"] < first["loss"] * 0.7
    assert last["validation_accuracy"] > 0.7
    names = {"epoch", "loss", "train_accuracy", "steps_per_second", "validation_loss", "validation_accuracy"}
    assert names <= first.keys()
    card = sealed.world.new_registry().open(session.sealed[-1]).manifest.run
    assert card is not None and card.metrics == last and (card.epoch, card.step) == (10, 0)


@pytest.mark.parametrize(
    "more",
    [{}, {"optimizer": "adamw", "ema": 0.9, "schedule": {"name": "cosine", "warmup_steps": 5}}],
    ids=["plain", "averaged"],
)
def test_a_run_goes_on_from_its_checkpoint_as_if_it_had_never_stopped(
    sealed: Sealed, tmp_path: Path, more: dict[str, Any]
) -> None:
    whole = trained(sealed, tmp_path, epochs=4, **more)
    second = trained(sealed, tmp_path, whole.sealed[1], epochs=4, **more)
    assert [report["epoch"] for report in second.reports] == [3, 4]
    one, other = weights(sealed, whole.sealed[-1]), weights(sealed, second.sealed[-1])
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    for name in ("loss", "validation_loss"):
        assert whole.reports[-1][name] == second.reports[-1][name]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_run_goes_on_in_the_middle_of_an_epoch_with_the_sums_of_the_whole(
    sealed: Sealed, tmp_path: Path, asynchronous: bool
) -> None:
    """Dropout is drawn as in the whole run, since every checkpoint begins its draws anew."""
    more: dict[str, Any] = {
        "epochs": 2,
        "architecture": {"name": "mlp", "arguments": {"hidden": [8], "dropout": 0.3}},
        "checkpoints": KEEP | {"every_steps": 7, "asynchronous": asynchronous},
    }
    whole = trained(sealed, tmp_path, **more)
    registry = sealed.world.new_registry()
    cards = [registry.open(id).manifest.run for id in whole.sealed]
    steps = 26
    places = [(card.epoch, card.step) for card in cards if card]
    assert places == [(0, 7), (0, 14), (0, 21), (1, 0), (1, 2), (1, 9), (1, 16), (1, 23), (2, 0)]
    assert all((epoch * steps + step) % 7 == 0 or step == 0 for epoch, step in places)
    for number in (1, 5):
        rest = trained(sealed, tmp_path, whole.sealed[number], **more)
        one, other = weights(sealed, whole.sealed[-1]), weights(sealed, rest.sealed[-1])
        assert all(torch.equal(one[name], other[name]) for name in one)
        for name in ("loss", "train_accuracy", "validation_loss"):
            assert rest.reports[0][name] == pytest.approx(whole.reports[places[number][0]][name], rel=1e-12)


def test_the_best_and_the_last_checkpoints_stay(sealed: Sealed, tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "epochs": 5,
        "checkpoints": {"every_steps": 10, "pause_s": 0, "keep_best": 2, "keep_last": 3},
    }
    session = trained(sealed, tmp_path, **more)
    name = session.sealed[0].name
    there = checkpoints_of(sealed.world.new_registry(), name)
    losses = {report["epoch"]: report["validation_loss"] for report in session.reports}
    best = sorted(losses, key=lambda epoch: losses[epoch])[:2]
    assert {one.id for one in there} >= set(session.sealed[-3:])
    assert [one.epoch for one in ranked(there)][:2] == best
    assert len(there) <= 5
    assert newest_checkpoint(sealed.world.new_registry(), name) == session.sealed[-1]
    for one in there:
        load_tensors(sealed.world.new_registry().open(one.id))


def test_short_epochs_share_a_checkpoint_and_the_best_is_among_those_sealed(sealed: Sealed, tmp_path: Path) -> None:
    more: dict[str, Any] = {"epochs": 12, "learning_rate": 3.0, "checkpoints": {"keep_last": 1000, "pause_s": 3600}}
    session = trained(sealed, tmp_path, **more)
    assert [report["epoch"] for report in session.reports] == list(range(1, 13))
    losses = [report["validation_loss"] for report in session.reports]
    best = losses.index(min(losses)) + 1
    there = checkpoints_of(sealed.world.new_registry(), session.sealed[0].name)
    assert [one.epoch for one in there] == sorted({best, 12})
    every = trained(sealed, tmp_path, **more | {"checkpoints": KEEP})
    assert [report["validation_loss"] for report in every.reports] == losses
    one, other = weights(sealed, there[0].id), weights(sealed, every.sealed[best - 1])
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_divergent_run_says_where_with_which_rows_and_from_where_to_go_on(tmp_path: Path, value: float) -> None:
    spoilt = seal_rows(tmp_path / "spoilt", MANY, extra=0.001, spoilt={37: value})
    config = spoilt.config(tmp_path, checkpoints=KEEP | {"every_steps": 1, "asynchronous": False}, epochs=3)
    session = LoneSession()
    with pytest.raises(JobError, match="Training diverged") as caught:
        run_epochs(config, Team.alone(), session)
    told = re.search(r"step (\d+) of epoch 1\. Worker 0 had the rows with row_id ([\d, ]+)\.", caught.value.message)
    assert told is not None, caught.value.message
    assert 37 in map(int, told.group(2).split(", "))
    last = session.sealed[-1]
    assert f"The last good checkpoint is {last} " not in caught.value.message
    assert f"checkpoint is {last}." in caught.value.message
    card = spoilt.world.new_registry().open(last).manifest.run
    assert card is not None and card.step == int(told.group(1)) - 1
    assert all(torch.isfinite(one).all() for one in weights(spoilt, last).values())


def test_weights_that_are_not_finite_are_not_sealed(sealed: Sealed, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="diverged"):
        trained(sealed, tmp_path, optimizer="sgd", learning_rate=1e38, epochs=3, checkpoints={"every_steps": 1})


def test_a_batch_without_rows_has_no_loss_and_no_gradient(sealed: Sealed) -> None:
    module = nn.Linear(3, 4)
    step = sealed.objective().step(module, (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)))
    step.loss.backward()
    assert float(step.loss.detach()) == 0.0 and step.count == 0
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_evaluation_is_the_mean_over_rows_without_dropout(sealed: Sealed) -> None:
    objective: CrossEntropy = sealed.objective()
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.9), nn.Linear(8, 4))
    features, label = torch.randn(20, 3), torch.arange(20) % 4
    batches = list(zip(features.split(7), label.split(7), strict=True))
    found = evaluate(module, batches, objective)
    assert found == evaluate(module, batches, objective)
    with torch.inference_mode():
        assert found["loss"] == pytest.approx(float(functional.cross_entropy(module(features), label)))
    assert found["accuracy"] == pytest.approx(float((module(features).argmax(1) == label).double().mean()))


def test_a_worker_trains_with_dropout_after_it_was_evaluated(sealed: Sealed, tmp_path: Path) -> None:
    config = sealed.config(tmp_path, architecture={"name": "mlp", "arguments": {"hidden": [8], "dropout": 0.5}})
    worker = Worker(config, Team.alone(), LoneSession())
    seen: list[bool] = []
    module = worker._strategy.module  # pyright: ignore[reportAttributeAccessIssue]
    module.register_forward_pre_hook(lambda one, _: seen.append(one.training))
    worker.train()
    steps = worker._lanes.steps
    epoch = [True] * steps + [False]
    assert seen == epoch * 2
