"""kill -9 of any process of a run at random moments: it ends with the same numbers, and no checkpoint is half there.

Job files run on a Ray that outlives them. A run whose driver is killed is begun again by its name.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from lightmill.records.base import now_iso
from lightmill.records.jobs import Job, JobKind, JobState
from lightmill.records.references import AssetKind, Reference
from lightmill.registry.tensors import load_tensors
from lightmill.settings import Settings
from lightmill.training.checkpoints import STATE_FILE
from lightmill.wiring import open_platform
from lightmill.wiring.platform import Platform
from tests.integration.numbers import ingest_numbers, train_spec
from tests.platforms import BIN, ROOT, TestPlatform, temporary_platform

pytestmark = [pytest.mark.integration, pytest.mark.slow]
KILLS = int(os.environ.get("LIGHTMILL_TEST_KILLS", "30"))
SPEC = train_spec(
    epochs=24,
    resources={"cpus": 1},  # of three: a place that a dead controller leaves taken would be too little for the next
    checkpoints={"every_steps": 20, "pause_s": 0, "keep_last": 2},
    failures={"worker": 1000, "controller": 1000},
    alias=None,
)
LATEST_S = 15.0
ASKED = {
    "ddp": ("driver", "worker", "worker", "controller"),
    "parameter_server": ("driver", "worker", "controller", "server", "server"),
}
KINDS = {"RayTrainWorker": "worker", "TrainController": "controller", "Server": "server"}
SAME = ("loss", "train_accuracy", "validation_loss", "validation_accuracy", "test_accuracy", "best_epoch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is killed in turn, how many in all, and the chance that says when."""

    asked: tuple[str, ...]
    kills: int
    chance: random.Random


@contextmanager
def ray_of(platform: TestPlatform) -> Iterator[TestPlatform]:
    """Yield the platform with a Ray that job files join."""
    holder = subprocess.Popen(
        [BIN / "python", "-m", "tests.integration.held_ray", platform.home, "3"],
        cwd=ROOT,
        env=platform.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        address = holder.stdout.readline().strip()
        assert address, "Ray did not start"
        yield TestPlatform(platform.environment | {"RAY_ADDRESS": address}, platform.home)
    finally:
        holder.stdin.close()
        holder.wait(timeout=60)


def begin(platform: TestPlatform, spec: Path, run: str, log: Path) -> subprocess.Popen[str]:
    with log.open("a") as errors:
        return subprocess.Popen(
            [BIN / "python", "jobs/train.py", spec, "--job", run],
            cwd=ROOT,
            env=platform.environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


def victims(driver: subprocess.Popen[str]) -> list[tuple[str, int]]:
    """The processes of the run: its driver, and the actors that Ray's workers of this machine are now."""
    found = [("driver", driver.pid)]
    for process in psutil.process_iter(["pid", "cmdline"]):
        title = " ".join(process.info["cmdline"] or [])
        if title.startswith("ray::"):
            found += [(kind, process.pid) for name, kind in KINDS.items() if name in title]
    return found


def check_versions(platform: Platform, run: str) -> int:
    """Read every checkpoint of a run that was not deleted, whole; return how many there are."""
    registry = platform.registry
    gone = registry.deleted(AssetKind.RUN, run)
    there = [seq for seq in range(1, registry.latest(AssetKind.RUN, run) + 1) if seq not in gone]
    for seq in there:
        version = registry.open(registry.resolve(AssetKind.RUN, Reference(name=run, selector=str(seq))))
        assert load_tensors(version)
        assert json.loads(version.read_file(STATE_FILE))["values"] is not None
    return len(there)


def result(driver: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = driver.communicate(timeout=300)
    return json.loads(out.strip().splitlines()[-1])


@pytest.mark.parametrize(("strategy", "kills"), [("ddp", KILLS), ("parameter_server", KILLS // 3)])
def test_a_run_whose_processes_are_killed_ends_as_one_that_nothing_happened_to(
    tmp_path: Path, strategy: str, kills: int
) -> None:
    chance = random.Random(7)
    killed: Counter[str] = Counter()
    path, log = tmp_path / "train.yaml", tmp_path / "log"
    path.write_text(yaml.safe_dump(SPEC | {"strategy": strategy}))
    with temporary_platform() as home, ray_of(home) as running:
        ingest_numbers(running, tmp_path, rows=2400)
        platform = open_platform(Settings(home=home.home))
        quiet = begin(running, path, named(platform, "quiet"), log)
        expected = result(quiet)["metrics"]
        runs = 0
        while killed.total() < kills:
            run = named(platform, f"disturbed-{runs}")
            plan = Plan(asked=ASKED[strategy], kills=kills, chance=chance)
            found: Any = disturbed(running, platform, path, run, log, plan, killed)["metrics"]
            runs += 1
            for name in SAME:
                assert found[name] == pytest.approx(expected[name], rel=1e-6), (run, name, log.read_text()[-3000:])
            assert check_versions(platform, run) >= 2
            epochs = [epoch.epoch for epoch in platform.catalog.runs.epochs(run)]
            assert epochs == list(range(1, SPEC["epochs"] + 1))
    print(f"{killed.total()} processes of {runs} runs were killed: {dict(killed)}")
    assert killed.keys() == set(ASKED[strategy])


def named(platform: Platform, run: str) -> str:
    """Make the row of a job, whose id is the name of the run."""
    row = Job(id=run, kind=JobKind.TRAIN, name="numbers", spec={}, submission_id="test", created=now_iso())
    return platform.catalog.jobs.create(row).id


def wait_for(kind: str, seconds: float, driver: subprocess.Popen[str]) -> list[int]:
    """Return the processes of a kind so many seconds after the first of them was there; none if the run has ended."""
    end = None
    while driver.poll() is None:
        found = [pid for name, pid in victims(driver) if name == kind]
        end = end or (time.monotonic() + seconds if found else None)
        if found and end and time.monotonic() >= end:
            return found
        time.sleep(0.05)
    return []


def disturbed(
    running: TestPlatform, platform: Platform, path: Path, run: str, log: Path, plan: Plan, killed: Counter[str]
) -> dict[str, Any]:
    """Run to the end; again and again a process of the next kind is killed, some time after it was there."""
    driver = begin(running, path, run, log)
    while killed.total() < plan.kills:
        kind, seconds = plan.asked[killed.total() % len(plan.asked)], plan.chance.uniform(0, LATEST_S)
        pids = wait_for(kind, seconds, driver)
        if not pids:
            break
        pid = plan.chance.choice(pids)
        try:
            psutil.Process(pid).kill()
        except psutil.NoSuchProcess:
            continue
        killed[kind] += 1
        if kind == "driver":
            driver.communicate()
            job = platform.catalog.jobs.get(run)
            if job.state is JobState.SUCCEEDED:  # it was about to end
                return job.result
            driver = begin(running, path, run, log)
    found = result(driver)
    assert "metrics" in found, (found, log.read_text()[-3000:])
    return found
