"""One worker of a run, alone, on a real sealed dataset: what it reports, and that it goes on as if never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightmill.records.references import AssetKind, VersionId
from lightmill.registry.tensors import load_tensors
from lightmill.training.loop import Worker, evaluate, run_epochs
from lightmill.training.objectives import CrossEntropy
from lightmill.training.session import LoneSession
from lightmill.training.team import Team
from tests.unit.training.sealed_rows import Sealed, seal_rows

MANY = {"train": (60, 41), "validation": (30,), "test": (10,)}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return seal_rows(tmp_path_factory.mktemp("looped"), MANY, extra=0.001)


def trained(sealed: Sealed, folder: Path, start: VersionId | None = None, **more: Any) -> LoneSession:
    session = LoneSession(start)
    run_epochs(sealed.config(folder, **more), Team.alone(), session)  # pyright: ignore[reportArgumentType]
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


def test_sealed_versions_are_the_run_s(sealed: Sealed, tmp_path: Path) -> None:
    session = trained(sealed, tmp_path)
    assert {(id.kind, id.name) for id in session.sealed} == {(AssetKind.RUN, "run-1")}


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
