"""A small table with two classes, and the specifications that ingest and train on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.platforms import BIN, TestPlatform


def write_numbers(folder: Path, rows: int) -> None:
    """Write `numbers.csv` and `dataset.yaml`: `kind` says whether x is above y."""
    x, y = np.random.default_rng(3).normal(size=(2, rows))
    lines = [f"{a:.6f},{b:.6f},{'ab'[int(a > b)]}" for a, b in zip(x, y, strict=True)]
    (folder / "numbers.csv").write_text("\n".join(["x,y,kind", *lines]) + "\n")
    spec = {
        "name": "numbers",
        "source": {"format": "csv", "path": "numbers.csv"},
        "columns": [
            {"name": "x", "dtype": "float64"},
            {"name": "y", "dtype": "float64"},
            {"name": "kind", "dtype": "string", "role": "label", "values": ["a", "b"]},
        ],
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(spec))


def ingest_numbers(platform: TestPlatform, folder: Path, rows: int) -> None:
    write_numbers(folder, rows)
    platform.run(BIN / "python", "jobs/ingest.py", folder / "dataset.yaml")


def train_spec(**more: Any) -> dict[str, Any]:
    """A specification of a small run; `more` are keys of it."""
    return {
        "model": "numbers",
        "dataset": "numbers@1",
        "architecture": {"name": "mlp", "arguments": {"hidden": [16]}},
        "batch_size": 24,
        "epochs": 2,
        "workers": 2,
        "resources": {"cpus": 0.5},
        **more,
    }
