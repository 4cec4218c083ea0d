"""The digits on a real Ray: what is measured while they are trained, and where it is found afterwards."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from lightmill.records.jobs import RunMetrics
from lightmill.records.references import AssetKind, parse_reference
from lightmill.registry import OpenVersion
from lightmill.settings import Settings
from lightmill.training.watching.history import METRICS_FILE, TRACE_FILE, read_history
from lightmill.wiring import open_platform
from tests.platforms import BIN, ROOT, Command, TestPlatform, temporary_platform
from tests.tracking import FakeTracking

pytestmark = [pytest.mark.integration, pytest.mark.slow]
DIGITS = ROOT / "examples" / "digits"
EPOCHS, EVERY = 12, 5
UNAVAILABLE = 7


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestPlatform, FakeTracking, str, str]]:
    """A platform's home on which the digits were trained with everything watched: home, MLflow, run, log."""
    with temporary_platform() as platform, FakeTracking() as tracking:
        patiently(platform, "jobs/ingest.py", DIGITS / "dataset.yaml")
        watch = {
            "every_steps": EVERY,
            "profile_steps": 3,
            "tensorboard": True,
            "mlflow": {"tracking_uri": tracking.url, "experiment": "digits"},
        }
        spec = yaml.safe_load((DIGITS / "train.yaml").read_text()) | {
            "epochs": EPOCHS,
            "watch": watch,
            "clip_norm": 5.0,
        }
        path = tmp_path_factory.mktemp("spec") / "train.yaml"
        path.write_text(yaml.safe_dump(spec))
        done = patiently(platform, "jobs/train.py", path)
        yield platform, tracking, done.json()["job"], done.err


def patiently(platform: TestPlatform, job: str, spec: Path) -> Command:
    """Run a job, again where its Ray did not come up in the 30 s that Ray gives itself on a busy machine."""
    for _ in range(3):
        if (done := platform.run(BIN / "python", job, spec, check=False)).code != UNAVAILABLE:
            break
    assert done.code == 0, done.out + done.err
    return done


def opened(platform: TestPlatform) -> tuple[RunMetrics, OpenVersion]:
    found = open_platform(Settings(home=platform.home))
    run = found.catalog.jobs.list(limit=1)[0].id
    version = found.registry.open(found.registry.resolve(AssetKind.MODEL, parse_reference("digits@1")))
    return found.catalog.runs.history(run), version


def test_points_of_steps_are_in_the_catalog(trained: tuple[TestPlatform, FakeTracking, str, str]) -> None:
    history, _ = opened(trained[0])
    steps = [point.step for point in history.steps]
    total = 10 * EPOCHS
    assert steps == sorted({*range(EVERY, total + 1, EVERY), total}), steps
    assert [epoch.epoch for epoch in history.epochs] == list(range(1, EPOCHS + 1))
    first, last = history.steps[0].metrics, history.steps[-1].metrics
    assert last["loss"] < first["loss"]
    for metrics in (first, last):
        assert {"learning_rate", "gradient_norm", "steps_per_second"} <= metrics.keys()
        assert metrics["rows_per_second"] > metrics["steps_per_second"] > 0
        assert 0 <= metrics["data_wait_share"] <= 1 and 0 <= metrics["communication_wait_share"] <= 1
        assert metrics["memory_bytes"] > 50e6
    # The mean over the points of an epoch is the epoch's loss, since points are means over all workers.
    for epoch in history.epochs:
        of_epoch = [point.metrics["loss"] for point in history.steps if point.epoch == epoch.epoch]
        assert sum(of_epoch) / len(of_epoch) == pytest.approx(epoch.metrics["loss"], rel=0.1)


def test_metrics_and_the_trace_are_sealed_with_the_version(
    trained: tuple[TestPlatform, FakeTracking, str, str],
) -> None:
    history, version = opened(trained[0])
    assert read_history(version) == history
    table = pq.read_table(pa.BufferReader(version.read_file(METRICS_FILE)))
    assert table.num_rows == len(history.steps) + len(history.epochs)
    trace = json.loads(gzip.decompress(version.read_file(TRACE_FILE)))
    assert any("convolution" in str(event.get("name")) for event in trace["traceEvents"])
    assert "Self CPU" in trained[3]


def test_the_loggers_were_told(trained: tuple[TestPlatform, FakeTracking, str, str]) -> None:
    platform, tracking, run, _ = trained
    history, _ = opened(platform)
    (found,) = tracking.runs.values()
    assert found.status == "FINISHED" and found.tags["lightmill.run"] == run
    assert found.parameters["learning_rate"] == "0.004"
    assert [value for _, value in found.metrics["step/loss"]] == [p.metrics["loss"] for p in history.steps]
    assert [step for step, _ in found.metrics["epoch/validation_loss"]] == list(range(1, EPOCHS + 1))
    events = list(Path(platform.home, "runs", run, "tensorboard").glob("events.out.tfevents.*"))
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(events[0].parent)).Reload()
    assert [event.step for event in read.Scalars("step/loss")] == [p.step for p in history.steps]


def test_nothing_of_it_still_runs(trained: tuple[TestPlatform, FakeTracking, str, str]) -> None:
    assert trained[0].processes() == []
