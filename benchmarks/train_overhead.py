"""Our training loop against a DistributedDataParallel loop written by hand and started with torchrun.

Same network, same rows, same batches, two workers of one thread each, both timed inside the worker over
whole epochs after the first, fetching a batch to the optimizer's step. Neither time contains start-up,
validation or checkpoints. The first epochs do not count: Ray still ends the processes that started the run.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from pathlib import Path

import yaml

from benchmarks.figures import figure, note
from tests.platforms import BIN, ROOT, TestPlatform, temporary_platform

RUNS = 5
EPOCHS = 60
WARM_EPOCHS = 15
GOAL = 0.95
BY_HAND = Path(__file__).with_name("ddp_by_hand.py")


def main() -> None:
    """Take turns: ours, by hand, ours, by hand ..."""
    spec = yaml.safe_load((ROOT / "examples/digits/train.yaml").read_text()) | {"epochs": EPOCHS}
    ours, peer = [], []
    with temporary_platform() as platform, tempfile.TemporaryDirectory() as folder:
        platform.lightmill("up")
        platform.lightmill("ingest", "examples/digits/dataset.yaml")
        rows = Path(folder) / "train.json"
        rows.write_text(json.dumps(_train_rows(platform)))
        path = Path(folder) / "train.yaml"
        path.write_text(yaml.safe_dump(spec))
        for run in range(RUNS):
            ours.append(_ours(platform, path))
            peer.append(_by_hand(platform, rows, spec))
            note(f"  run {run + 1}: ours {ours[-1]:.1f}, by hand {peer[-1]:.1f} steps a second")
    figure("train_overhead", "steps/s", ours, peer, goal=f">= {GOAL}", holds=lambda ratio: ratio >= GOAL)


def _train_rows(platform: TestPlatform) -> dict[str, list[object]]:
    """Return the prepared training split, which the registry gives without Ray."""
    code = (
        "import json, lightmill; c = lightmill.connect(); "
        "d = c.datasets.rows('digits@latest', 'train', limit=10000); "
        "print(json.dumps({'features': d['features'], 'label': d['label']}))"
    )
    return platform.run(BIN / "python", "-c", code).json()


def _ours(platform: TestPlatform, spec: Path) -> float:
    job = platform.lightmill("train", spec, "--json").json()
    epochs = platform.lightmill("jobs", "show", job["id"], "--json").json()["epochs"]
    return statistics.median(epoch["metrics"]["steps_per_second"] for epoch in epochs[WARM_EPOCHS:])


def _by_hand(platform: TestPlatform, rows: Path, spec: dict[str, object]) -> float:
    done = subprocess.run(
        [BIN / "torchrun", "--standalone", "--nproc-per-node=2", BY_HAND, rows, json.dumps(spec)],
        env=platform.environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    speeds = json.loads(done.stdout.strip().splitlines()[-1])
    return statistics.median(speeds[WARM_EPOCHS:])
