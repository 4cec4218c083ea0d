"""Job files run by plain Python with no platform up: each brings a Ray of its own and takes it away again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from lightmill.catalog import Catalog
from lightmill.records.references import AssetKind
from lightmill.settings import Settings
from lightmill.wiring import open_platform
from tests.platforms import BIN, ROOT, TestPlatform, temporary_platform

pytestmark = [pytest.mark.integration, pytest.mark.slow]
DIGITS = ROOT / "examples" / "digits"


@pytest.fixture(scope="module")
def alone() -> Iterator[TestPlatform]:
    """A home with the digits ingested; nothing runs."""
    with temporary_platform() as platform:
        done = platform.run(BIN / "python", "jobs/ingest.py", DIGITS / "dataset.yaml")
        assert done.json()["dataset_version"] == "digits@1"
        yield platform


def spec_file(folder: Path, **changes: object) -> Path:
    spec = yaml.safe_load((DIGITS / "train.yaml").read_text()) | changes
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def test_ingest_counts_every_row(alone: TestPlatform) -> None:
    with Catalog.open(f"sqlite:///{alone.home}/catalog.db") as catalog:
        card = catalog.versions.get("dataset", "digits", 1).card
    profile = card["profile"]
    assert profile["rows_in"] == profile["rows_kept"] + sum(profile["dropped"].values()) == 1822
    assert profile["dropped"] == {"missing value": 7, "out of range": 5, "duplicate row": 25}
    assert sum(profile["splits"].values()) == profile["rows_kept"] == sum(profile["classes"].values())
    assert len(profile["columns"]) == 64


def test_killed_worker_resumes_from_the_sealed_checkpoint_on_logical_gpus(alone: TestPlatform, tmp_path: Path) -> None:
    """With `--num-gpus` and no device, GPU actors are placed, gradients travel by gloo, and the log says so."""
    path = spec_file(tmp_path, epochs=16, model="resumed", failures={"worker": 1}, checkpoints={"pause_s": 0})
    job = subprocess.Popen(
        [BIN / "python", "jobs/train.py", path],
        cwd=ROOT,
        env=alone.environment | {"LIGHTMILL_NUM_GPUS": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stderr is not None and job.stdout is not None
    log = []
    for line in job.stderr:
        log.append(line)
        if "lightmill.job: epoch 4 " in line:
            break
    assert "1 CPU, 1 GPU on cpu (gloo)" in "".join(log)
    victims = [p for p in psutil.Process(job.pid).children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
    victims = victims or [p for p in alone.processes() if "RayTrainWorker" in " ".join(p.cmdline())]
    assert victims, "".join(log)
    victims[0].kill()
    out, err = job.communicate(timeout=300)
    assert job.returncode == 0, out + err
    run = json.loads(out.strip().splitlines()[-1])["job"]
    platform = open_platform(Settings(home=alone.home))
    assert [epoch.epoch for epoch in platform.catalog.runs.epochs(run)] == list(range(1, 17))
    # Every epoch was sealed once; a start from the beginning would have sealed the first ones twice.
    assert 16 <= platform.registry.latest(AssetKind.RUN, run) <= 18


def test_nothing_of_it_still_runs(alone: TestPlatform) -> None:
    assert alone.processes() == []
