"""TensorBoard's files, an MLflow server on a real socket, and loggers that fail."""

from __future__ import annotations

import base64
import importlib.util
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lightmill.errors import RequestError, UnavailableError
from lightmill.records.jobs import EpochMetrics, StepMetrics
from lightmill.records.specs import TrainSpec, parse_spec
from lightmill.records.training import MlflowSpec
from lightmill.training.watching import loggers
from lightmill.training.watching.loggers import FAILURES_MAX, MetricsLogger, Telling
from lightmill.training.watching.mlflow import MLflow
from lightmill.training.watching.tensorboard import TensorBoard
from tests.http_fake import Answer
from tests.tracking import FakeTracking

SPEC = {
    "model": "m",
    "dataset": "d@1",
    "architecture": {"name": "mlp", "arguments": {"hidden": [4]}},
    "learning_rate": 0.5,
}
TRAIN = TrainSpec.model_validate(SPEC)
AT = "2026-01-02T03:04:05.678Z"


def point(step: int, **metrics: float) -> StepMetrics:
    return StepMetrics(run="r", step=step, epoch=1, metrics=metrics or {"loss": 1 / step}, created=AT)


def epoch(number: int) -> EpochMetrics:
    return EpochMetrics(run="r", epoch=number, metrics={"validation_loss": 1 / number}, created=AT)


@pytest.fixture
def tracking(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTracking]:
    for name in ("TOKEN", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    with FakeTracking() as found:
        yield found


def connected(tracking: FakeTracking, run: str = "r") -> MLflow:
    return MLflow(MlflowSpec(tracking_uri=tracking.url + "/", experiment="e"), TRAIN, run)


def test_mlflow_gets_parameters_metrics_and_the_end(tracking: FakeTracking) -> None:
    told = connected(tracking)
    told.steps([point(step) for step in range(1, 1501)])  # more than one request may hold
    told.epoch(epoch(1))
    told.steps([point(1501, **{"loss/ä:é": 2.0})])
    told.close(succeeded=True)
    (run,) = tracking.runs.values()
    assert tracking.experiments == {"e": run.experiment}
    assert (run.status, run.tags) == ("FINISHED", {"mlflow.runName": "r", "lightmill.run": "r"})
    assert (run.parameters["learning_rate"], run.parameters["dataset"]) == ("0.5", "d@1")
    assert run.parameters["architecture.arguments.hidden"] == "[4]"
    assert run.metrics["step/loss"] == [(step, 1 / step) for step in range(1, 1501)]
    assert run.metrics["epoch/validation_loss"] == [(1, 1.0)]
    assert run.metrics["step/loss/____"[:13]] == [(1501, 2.0)]


def test_a_run_that_goes_on_goes_on_in_mlflow(tracking: FakeTracking) -> None:
    connected(tracking).close(succeeded=False)
    assert [run.status for run in tracking.runs.values()] == ["FAILED"]
    again = connected(tracking)
    assert [run.status for run in tracking.runs.values()] == ["RUNNING"]
    again.close(succeeded=True)
    connected(tracking, "other").close(succeeded=True)
    assert [run.status for run in tracking.runs.values()] == ["FINISHED"] * 2
    assert len(tracking.experiments) == 1


@pytest.mark.parametrize(
    ("variables", "sent"),
    [
        ({}, None),
        ({"TOKEN": "secret"}, "Bearer secret"),
        ({"USERNAME": "me", "PASSWORD": "pw"}, "Basic " + base64.b64encode(b"me:pw").decode()),
    ],
)
def test_credentials_come_from_the_variables_of_mlflow(
    tracking: FakeTracking, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sent: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    connected(tracking)
    assert {seen.headers.get("authorization") for seen in tracking.seen} == {sent}


@pytest.mark.parametrize(
    ("answer", "kind", "named"),
    [
        (Answer(status=403, body=b'{"error_code": "PERMISSION_DENIED"}'), RequestError, "403.*PERMISSION_DENIED"),
        (Answer(status=500), UnavailableError, "answered 500"),
        (Answer(status=200, body=b"<html>hello</html>"), RequestError, "no MLflow server.*tracking_uri"),
    ],
)
def test_a_server_that_refuses_is_named(tracking: FakeTracking, answer: Answer, kind: type, named: str) -> None:
    tracking.failing = answer
    with pytest.raises(kind, match=named):
        connected(tracking)


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("file:///tmp/runs", "address of a tracking server"),
        ("databricks", "address of a tracking server"),
        ("http://me:pw@host", "MLFLOW_TRACKING_USERNAME"),
    ],
)
def test_an_address_that_is_none_or_holds_a_password_is_refused(uri: str, named: str) -> None:
    with pytest.raises(RequestError, match=named):
        parse_spec(TrainSpec, {**SPEC, "watch": {"mlflow": {"tracking_uri": uri}}}, "It")


class Failing(MetricsLogger):
    """Fails `times` times, then works."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.heard: list[int] = []
        self.asked = 0

    def steps(self, points: Sequence[StepMetrics]) -> None:
        self.asked += 1
        self.left -= 1
        if self.left >= 0:
            raise OSError("the disk is full")
        self.heard += [one.step for one in points]

    def epoch(self, metrics: EpochMetrics) -> None:
        self.heard.append(-metrics.epoch)

    def close(self, *, succeeded: bool) -> None:
        self.heard.append(1000 if succeeded else 999)


def test_a_logger_is_told_in_order_and_to_the_end() -> None:
    logger = Failing(0)
    telling = Telling("it", lambda: logger)
    telling.steps([point(1), point(2)])
    telling.epoch(epoch(1))
    telling.close(succeeded=False)
    assert logger.heard == [1, 2, -1, 999]


def test_one_that_fails_is_warned_of_once_and_may_go_on(caplog: pytest.LogCaptureFixture) -> None:
    logger = Failing(3)
    telling = Telling("it", lambda: logger)
    for step in range(1, 6):
        telling.steps([point(step)])
    telling.close(succeeded=True)
    assert logger.heard == [4, 5, 1000]
    assert [record.getMessage() for record in caplog.records] == [
        "logging to it does not work, training goes on: the disk is full"
    ]


def test_one_that_fails_again_and_again_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    logger = Failing(99)
    telling = Telling("it", lambda: logger)
    for step in range(1, 20):
        telling.steps([point(step)])
    telling.close(succeeded=True)
    assert (logger.asked, logger.heard, len(caplog.records)) == (FAILURES_MAX, [], 1)


def test_one_that_cannot_be_made_keeps_nobody_waiting(tracking: FakeTracking, caplog: pytest.LogCaptureFixture) -> None:
    tracking.failing = Answer(status=500)
    telling = Telling("MLflow", lambda: connected(tracking))
    telling.epoch(epoch(1))
    telling.close(succeeded=True)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "answered 500" in caplog.text


def test_a_slow_one_loses_reports_and_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loggers, "WAITING_MAX", 3)
    may = threading.Event()
    logger = Failing(0)

    def make() -> MetricsLogger:
        may.wait(60)
        return logger

    telling = Telling("it", make)
    for step in range(1, 9):
        telling.steps([point(step)])
    may.set()
    telling.close(succeeded=True)
    assert logger.heard[:3] == [1, 2, 3] and "some are left out" in caplog.text


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path)
    board.steps([point(10, loss=0.5), point(20, loss=0.25)])
    board.epoch(epoch(2))
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in read.Scalars("step/loss")] == [(10, 0.5), (20, 0.25)]
    (event,) = read.Scalars("epoch/validation_loss")
    assert (event.step, event.value, event.wall_time) == (2, 0.5, pytest.approx(1767323045.678))
    board.close(succeeded=True)
