"""Our training against a DistributedDataParallel loop written by hand and started with torchrun.

Two models: a small perceptron on the digits, and a transformer of 10 million parameters on packed tokens. Network, rows
and batches are the same, two workers of one thread each, both timed inside the worker over whole epochs, fetching a
batch to the optimizer's step. Neither time contains start-up, validation or checkpoints. The first epochs do not count:
Ray still ends the processes that started the run. An epoch of the small model takes 23 ms, so that 400 of them are run.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml

from benchmarks.figures import figure, note
from tests.platforms import BIN, ROOT, TestPlatform, temporary_platform

GOAL = 0.97
BY_HAND = Path(__file__).with_name("ddp_by_hand.py")
LENGTH = 128


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and its rows, how many runs, and how many epochs of each count for nothing."""

    name: str
    spec: dict[str, Any]
    runs: int
    warm_epochs: int


MLP = Case(
    name="mlp",
    spec={
        "model": "digits",
        "dataset": "digits@latest",
        "architecture": {"name": "mlp", "arguments": {"hidden": [256, 128]}},
        "objective": "cross_entropy",
        "epochs": 400,
        "batch_size": 128,
    },
    runs=5,
    warm_epochs=100,
)
TRANSFORMER = Case(
    name="transformer",
    spec={
        "model": "words",
        "dataset": "words@latest",
        "architecture": {"name": "decoder", "arguments": {"width": 320, "layers": 8, "heads": 5}},
        "objective": "causal_lm",
        "epochs": 5,
        "batch_size": 8,
    },
    runs=3,
    warm_epochs=1,
)
COMMON = {"learning_rate": 0.001, "seed": 7, "workers": 2, "watch": {"every_steps": 0}}


def main() -> None:
    """Take turns: ours, by hand, ours, by hand ..."""
    with temporary_platform() as platform, tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        platform.lightmill("up")
        platform.lightmill("ingest", "examples/digits/dataset.yaml")
        platform.lightmill("ingest", made_words(folder))
        for case in (MLP, TRANSFORMER):
            measure(platform, case, folder)


def measure(platform: TestPlatform, case: Case, folder: Path) -> None:
    """Print the figures of one model."""
    spec = case.spec | COMMON
    rows = training_rows(platform, case, folder / f"{case.name}.npz")
    path = folder / f"{case.name}.yaml"
    path.write_text(yaml.safe_dump(spec))
    ours, peer = [], []
    for run in range(case.runs):
        ours.append(_ours(platform, path, case.warm_epochs))
        peer.append(by_hand(platform, rows, spec, case.warm_epochs)[0])
        note(f"  {case.name}, run {run + 1}: ours {ours[-1]:.2f}, by hand {peer[-1]:.2f} steps a second")
    figure(f"train_overhead_{case.name}", "steps/s", ours, peer, goal=f">= {GOAL}", holds=lambda ratio: ratio >= GOAL)


def made_words(folder: Path) -> Path:
    """Write made-up texts, a tokenizer of them, and the specification of a dataset of packed tokens."""
    import tokenizers

    chance = Random(5)
    words = ["".join(chance.choice("abcdefghij") for _ in range(chance.randrange(2, 9))) for _ in range(300)]
    texts = [" ".join(chance.choice(words) for _ in range(chance.randrange(50, 400))) for _ in range(60)]
    (folder / "texts").mkdir()
    for number, text in enumerate(texts):
        (folder / "texts" / f"{number:02d}.txt").write_text(text)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(vocab_size=400, special_tokens=["?", "|"]))
    tokenizer.save(str(folder / "tokenizer.json"))
    spec = {
        "name": "words",
        "source": {"format": "text", "path": "texts", "unit": "document"},
        "columns": [
            {"name": "text", "dtype": "string", "role": "text"},
            {"name": "path", "dtype": "string", "role": "key"},
        ],
        "split": {"by": "random", "seed": 1},
        "keep_source_columns": False,
        "prepare": [
            {"step": "tokenize", "column": "text", "file": "tokenizer.json"},
            {"step": "pack", "length": LENGTH, "separator": 1, "remainder": "drop"},
        ],
    }
    path = folder / "dataset.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def training_rows(platform: TestPlatform, case: Case, path: Path) -> Path:
    """Write the prepared training split as two arrays, which the registry gives without Ray."""
    from lightmill.datasets.reading import feature_rows, read_rows
    from lightmill.records.references import AssetKind, parse_reference
    from lightmill.settings import Settings
    from lightmill.wiring import open_platform

    opened = open_platform(Settings(home=platform.home))
    version = opened.registry.open(
        opened.registry.resolve(AssetKind.DATASET, parse_reference(str(case.spec["dataset"])))
    )
    table = read_rows(version, opened.location, "train")
    if case.spec["objective"] == "cross_entropy":
        np.savez(path, first=feature_rows(table), second=table.column("label").to_numpy())
        return path
    card = version.manifest.dataset
    tokens = card.tokens if card else None
    if tokens is None or tokens.segments is None:
        raise SystemExit("the dataset of words has no tokens")
    arrays = [np.stack(table.column(name).to_numpy()).astype(np.int64) for name in (tokens.column, tokens.segments)]
    np.savez(path, first=arrays[0], second=arrays[1])
    case.spec["architecture"]["arguments"] |= {"vocabulary": int(tokens.vocabulary or 0), "context": tokens.length}
    return path


def _ours(platform: TestPlatform, spec: Path, warm_epochs: int) -> float:
    job = platform.lightmill("train", spec, "--json").json()
    epochs = platform.lightmill("jobs", "show", job["id"], "--json").json()["epochs"]
    return statistics.median(epoch["metrics"]["steps_per_second"] for epoch in epochs[warm_epochs:])


def by_hand(platform: TestPlatform, rows: Path, spec: dict[str, Any], warm_epochs: int) -> tuple[float, float]:
    """Return the median of steps a second, and the seconds from start to the end of the first step."""
    done = subprocess.run(
        [BIN / "torchrun", "--standalone", "--nproc-per-node=2", BY_HAND, rows, json.dumps(spec)],
        env=platform.environment | {"OMP_NUM_THREADS": "1", "STARTED_AT": str(time.time()), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return statistics.median(found["speeds"][warm_epochs:]), found["first_step"]
