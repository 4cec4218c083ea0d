"""Tuning and replays on a real Ray, with the digits: trials, early stopping, populations, and the same bits again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightmill.records.references import AssetKind, parse_reference
from lightmill.records.tuning import TrialTable
from lightmill.settings import Settings
from lightmill.training.keeping import checkpoints_of
from lightmill.wiring import open_platform
from tests.platforms import BIN, ROOT, Command, TestPlatform, temporary_platform

pytestmark = [pytest.mark.integration, pytest.mark.slow]
DIGITS = ROOT / "examples" / "digits"
TRAIN = {
    "model": "tuned",
    "dataset": "digits@latest",
    "architecture": {"name": "mlp", "arguments": {"hidden": [32], "dropout": 0.2}},
    "batch_size": 128,
    "deterministic": True,
}
RATE = {"learning_rate": {"loguniform": [0.0001, 0.05]}}


@pytest.fixture(scope="module")
def running() -> Iterator[TestPlatform]:
    """A platform that is up, with the digits."""
    with temporary_platform() as platform:
        platform.lightmill("up")
        platform.run(BIN / "python", "jobs/ingest.py", DIGITS / "dataset.yaml")
        yield platform


def tune(platform: TestPlatform, folder: Path, *arguments: str, check: bool = True, **spec: Any) -> Command:
    path = folder / "tune.yaml"
    train = TRAIN | spec.pop("train", {})
    path.write_text(yaml.safe_dump({"train": train, "search": RATE, "trials": 4, **spec}))
    return platform.run(BIN / "python", "jobs/tune.py", path, *arguments, check=check)


def table_of(done: Command) -> TrialTable:
    return TrialTable.model_validate(done.json()["tuning"])


def test_random_trials_within_a_limit_leave_a_version_with_the_table(running: TestPlatform, tmp_path: Path) -> None:
    search = RATE | {"architecture.arguments.hidden": {"choice": [[16], [32], [512]]}}
    done = tune(running, tmp_path, train={"epochs": 2}, search=search, limits={"parameters": 5000})
    table = table_of(done)
    trained = [trial for trial in table.trials if trial.state == "done"]
    assert len(trained) == 4 and {trial.epochs for trial in trained} == {2}
    assert all(trial.values["architecture.arguments.hidden"] != [512] for trial in trained)
    assert all("5,000" in trial.reason for trial in table.trials if trial.state == "refused")
    platform = open_platform(Settings(home=running.home))
    version = platform.registry.open(
        platform.registry.resolve(AssetKind.MODEL, parse_reference(done.json()["model_version"]))
    )
    assert TrialTable.model_validate_json(version.read_file("trials.json")) == table
    best = next(table.ranked())
    assert version.manifest.provenance.spec["learning_rate"] == best.values["learning_rate"]
    assert version.manifest.provenance.hardware is not None and version.manifest.provenance.environment
    assert version.manifest.model and version.manifest.model.metrics["validation_loss"] == best.metric
    left = {trial.number: [one.id for one in checkpoints_of(platform.registry, trial.run)] for trial in trained}
    assert left == {trial.number: [best.checkpoint] if trial == best else [] for trial in trained}
    shown = running.lightmill("jobs", "trials", done.json()["job"], "--json").json()
    assert TrialTable.model_validate(shown) == table


def test_the_worst_are_stopped_early(running: TestPlatform, tmp_path: Path) -> None:
    done = tune(
        running,
        tmp_path,
        train={"epochs": 9},
        search={"learning_rate": {"choice": [0.01, 0.0000001]}},
        algorithm={"name": "asha", "reduction": 3},
        trials=8,
        parallel=2,
        seed=1,
    )
    table = table_of(done)
    states = {trial.state for trial in table.trials}
    assert states == {"done", "stopped"}
    assert next(table.ranked()).values["learning_rate"] == 0.01
    assert all(trial.epochs < 9 for trial in table.trials if trial.state == "stopped")


def test_a_population_takes_over_the_best(running: TestPlatform, tmp_path: Path) -> None:
    algorithm = {"name": "pbt", "every_epochs": 1, "quantile": 0.5}
    done = tune(running, tmp_path, train={"epochs": 4}, algorithm=algorithm, parallel=4)
    table = table_of(done)
    assert {trial.state for trial in table.trials} == {"done"}
    assert sum(trial.copied for trial in table.trials) >= 1


def test_optuna_and_trials_of_two_workers(running: TestPlatform, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="optuna is not installed")
    algorithm = {"name": "optuna", "startup": 1}
    done = tune(running, tmp_path, train={"epochs": 2, "workers": 2}, algorithm=algorithm, trials=2, parallel=1)
    assert [(trial.state, trial.epochs) for trial in table_of(done).trials] == [("done", 2)] * 2


def test_a_metric_that_is_not_measured_ends_the_job_with_those_that_are(running: TestPlatform, tmp_path: Path) -> None:
    done = tune(running, tmp_path, train={"epochs": 1}, metric="validation_f1", trials=2, check=False)
    assert done.code != 0 and "validation_accuracy" in done.json()["error"]


def test_a_killed_job_is_gone_on_with(running: TestPlatform, tmp_path: Path) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text(yaml.safe_dump({"train": TRAIN | {"epochs": 3}, "search": RATE, "trials": 4, "parallel": 1}))
    job = subprocess.Popen(
        [BIN / "python", "jobs/tune.py", path],
        cwd=ROOT,
        env=running.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stderr is not None
    for line in job.stderr:
        if " 2/4 trials" in line:
            break
    job.kill()
    job.wait()
    id = running.lightmill("jobs", "list", "--json").json()[0]["id"]
    before = TrialTable.model_validate(running.lightmill("jobs", "trials", id, "--json").json())
    table = table_of(running.run(BIN / "python", "jobs/tune.py", path, "--resume", id))
    assert [(trial.state, trial.epochs) for trial in table.trials] == [("done", 3)] * 4
    ended = [trial for trial in before.trials if trial.state == "done"]
    assert ended and all(trial in table.trials for trial in ended)
    assert table.job == id


def test_a_replay_makes_the_same_bits_and_registers_nothing(running: TestPlatform, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(TRAIN | {"epochs": 2, "workers": 2, "model": "again"}))
    job = running.run(BIN / "python", "jobs/train.py", path).json()["job"]
    done = running.lightmill("jobs", "replay", job, "--folder", str(ROOT), "--json")
    report = done.json()
    assert done.code == 0 and report["equal"] and report["deterministic"] and report["digest"] == report["found"]
    platform = open_platform(Settings(home=running.home))
    assert platform.registry.latest(AssetKind.MODEL, "again") == 1
    assert report["version"]["name"] == "again"
    assert json.dumps(report["differences"]).count('"matters": true') == 0
