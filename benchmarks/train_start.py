"""From submitting a training job to its first step, over `torchrun` of the same script; and where the time goes.

The job is that of `train_overhead`'s small model, submitted to a platform that is up. Parts are read from its row and
its log: until its driver runs, until workers are asked of Ray, until the first step is known; the last one within the
second that the driver takes to look.
"""

from __future__ import annotations

import re
import statistics
import tempfile
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from benchmarks.figures import figure, note
from benchmarks.train_overhead import COMMON, MLP, by_hand, training_rows
from tests.platforms import TestPlatform, temporary_platform

RUNS = 3
PARTS = ("driver", "prepare", "workers")
_ASKED = re.compile(r"^(\S+ \S+) INFO lightmill\.job: start \d+ worker", re.MULTILINE)


def main() -> None:
    """Take turns: ours, by hand, ours, by hand ..."""
    with temporary_platform() as platform, tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        platform.lightmill("up")
        platform.lightmill("ingest", "examples/digits/dataset.yaml")
        spec = MLP.spec | COMMON | {"epochs": 2, "watch": {"every_steps": 1}}
        rows = training_rows(platform, MLP, folder / "rows.npz")
        path = folder / "train.yaml"
        path.write_text(yaml.safe_dump(spec))
        parts: list[tuple[float, ...]] = []
        peer = []
        for run in range(RUNS):
            parts.append(started(platform, path))
            peer.append(by_hand(platform, rows, spec, 0)[1])
            shown = ", ".join(f"{name} {seconds:.1f}" for name, seconds in zip(PARTS, parts[-1], strict=True))
            note(f"  run {run + 1}: {sum(parts[-1]):.1f} s ({shown}), by hand {peer[-1]:.1f} s")
    medians = {name: round(statistics.median(values), 1) for name, *values in zip(PARTS, *parts, strict=True)}
    figure("train_start", "s, ours over torchrun", [sum(one) for one in parts], peer, parts=medians)


def started(platform: TestPlatform, spec: Path) -> tuple[float, ...]:
    """Train, and return the seconds of each part."""
    job = platform.lightmill("train", spec, "--json").json()["id"]
    row: dict[str, Any] = platform.lightmill("jobs", "show", job, "--json").json()
    found = _ASKED.search(platform.lightmill("jobs", "logs", job).out)
    steps = platform.lightmill("jobs", "metrics", job, "--json").json()["steps"]
    if found is None or not steps:
        raise SystemExit(f"the log of {job} does not say when its workers were started")
    asked = datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").astimezone(UTC)
    times = [*(datetime.fromisoformat(row[name]) for name in ("created", "started")), asked]
    times.append(datetime.fromisoformat(min(step["created"] for step in steps)))
    return tuple((after - before).total_seconds() for before, after in pairwise(times))


if __name__ == "__main__":
    main()
