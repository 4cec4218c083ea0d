"""What training does with rows, on a real Ray: who gets which, what augmentation changes, and a user's own functions.

One platform runs for all; job files are run by plain Python, so that each can have settings of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import yaml

from lightmill.datasets.reading import read_rows
from lightmill.records.references import AssetKind, parse_reference
from lightmill.registry import OpenVersion
from lightmill.settings import Settings
from lightmill.wiring import open_platform
from lightmill.wiring.platform import Platform
from tests.platforms import BIN, Command, TestPlatform, temporary_platform

pytestmark = [pytest.mark.integration, pytest.mark.slow]
ROWS = 300
ALLOW = {"LIGHTMILL_ALLOW_PYTHON_STEPS": "true"}
CODE = """
import numpy as np
import pyarrow as pa


def ratio(table):
    return pa.table({"ratio": table.column("x").to_numpy() / (1 + np.abs(table.column("y").to_numpy()))})


def whole(table):
    return pa.table({"ratio": np.zeros(len(table), dtype=np.int64)})
"""


@pytest.fixture(scope="module")
def running() -> Iterator[TestPlatform]:
    with temporary_platform() as platform:
        platform.lightmill("up")
        yield platform


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of two classes, and a package beside it."""
    made = tmp_path_factory.mktemp("numbers")
    chance = np.random.default_rng(3)
    x, y = chance.normal(size=(2, ROWS))
    lines = [f"{a:.6f},{b:.6f},{n % 7},{'ab'[int(a > b)]}" for n, (a, b) in enumerate(zip(x, y, strict=True))]
    (made / "numbers.csv").write_text("\n".join(["x,y,owner,kind", *lines]) + "\n")
    (made / "own_steps").mkdir()
    (made / "own_steps" / "__init__.py").touch()
    (made / "own_steps" / "numbers.py").write_text(CODE)
    return made


def ingest(platform: TestPlatform, folder: Path, name: str, *, check: bool = True, **changes: Any) -> Command:
    spec = {
        "name": name,
        "source": {"format": "csv", "path": "numbers.csv"},
        "columns": [
            {"name": "x", "dtype": "float64"},
            {"name": "y", "dtype": "float64"},
            {"name": "owner", "dtype": "int64", "role": "key"},
            {"name": "kind", "dtype": "string", "role": "label", "values": ["a", "b"]},
        ],
        **changes.pop("spec", {}),
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec))
    return platform.run(BIN / "python", "jobs/ingest.py", path, check=check, **changes)


def train(platform: TestPlatform, folder: Path, name: str, *, check: bool = True, **changes: Any) -> Command:
    spec = {
        "model": name,
        "dataset": f"{name}@latest",
        "architecture": {"name": "mlp", "arguments": {"hidden": [8]}},
        "epochs": 2,
        "batch_size": 32,
        **changes.pop("spec", {}),
    }
    path = folder / f"{name}-train.yaml"
    path.write_text(yaml.safe_dump(spec))
    return platform.run(BIN / "python", "jobs/train.py", path, check=check, **changes)


def opened(platform: TestPlatform, name: str) -> tuple[Platform, OpenVersion]:
    found = open_platform(Settings(home=platform.home))
    return found, found.registry.open(found.registry.resolve(AssetKind.DATASET, parse_reference(f"{name}@latest")))


@pytest.fixture(scope="module")
def numbers(running: TestPlatform, folder: Path) -> None:
    ingest(running, folder, "numbers")


def test_each_worker_gets_the_rows_that_the_distribution_says(running: TestPlatform, numbers: None) -> None:
    """The row ids that two workers of Ray Train see in two epochs, for every distribution."""
    platform, version = opened(running, "numbers")
    said = running.run(BIN / "python", "-m", "tests.integration.seen_rows", str(running.home), str(version.id))
    seen = said.json()
    train = read_rows(version, platform.location, "train")
    all_rows = sorted(train.column("row_id").to_pylist())
    owner = dict(zip(train.column("row_id").to_pylist(), train.column("owner").to_pylist(), strict=True))
    label = dict(zip(train.column("row_id").to_pylist(), train.column("label").to_pylist(), strict=True))
    for name, epochs in seen.items():
        for workers in epochs:
            assert sorted(row for worker in workers for row in worker) == all_rows, name
        first, second = (sorted(worker) for worker in epochs[0])
        assert (first, second) == tuple(sorted(worker) for worker in epochs[1]), name
        assert epochs[0] != epochs[1], f"{name}: the order differs from epoch to epoch"
        if name in ("random", "sequential", "class"):
            assert abs(len(first) - len(second)) <= 1
        if name == "sequential":
            ordered = train.column("row_id").to_pylist()
            assert set(first) == set(ordered[: len(first)])
        if name == "class":
            for kind in (0, 1):
                assert abs(sum(label[r] == kind for r in first) - sum(label[r] == kind for r in second)) <= 1
        if name == "key":
            assert {owner[row] for row in first}.isdisjoint({owner[row] for row in second})
    assert set(seen) == {"random", "sequential", "class", "key"}


def test_a_distributed_training_ends_and_a_worker_without_rows_is_refused(
    running: TestPlatform, folder: Path, numbers: None
) -> None:
    for by in ({"by": "class"}, {"by": "key", "column": "owner"}):
        assert train(running, folder, "numbers", spec={"distribution": by}).json()["metrics"]["test_accuracy"] > 0.4
    refused = train(running, folder, "numbers", check=False, spec={"distribution": {"by": "key", "column": "colour"}})
    assert refused.code == 2 and "'colour' is not a column of numbers@1" in refused.json()["error"]
    refused = train(
        running, folder, "numbers", check=False, spec={"workers": 8, "distribution": {"by": "key", "column": "owner"}}
    )
    assert refused.code == 2 and "without rows" in refused.json()["error"]


def test_augmentation_changes_training_rows_only(running: TestPlatform, folder: Path) -> None:
    prepare = [
        {"step": "standardize", "columns": ["x", "y"]},
        {"step": "augment", "columns": ["x"], "operations": [{"op": "noise", "std": 0.1}], "seed": 4},
    ]
    ingest(running, folder, "noisy", spec={"prepare": prepare})
    platform, version = opened(running, "noisy")
    card = version.manifest.dataset
    assert card is not None and card.training is not None and card.preparation is not None
    assert [step.step for step in card.training.fitted.steps] == ["augment", "features"]
    assert [step.step for step in card.preparation.fitted.steps] == ["standardize", "features"]
    rows = read_rows(version, platform.location, "train")
    assert "features" not in rows.column_names
    assert abs(float(pc.mean(rows.column("prepared_x")).as_py())) < 1e-6
    spec = {"distribution": {"by": "random"}}
    first, again = (train(running, folder, "noisy", spec=spec).json()["metrics"] for _ in range(2))
    same = ("loss", "validation_loss", "test_accuracy")
    assert [first[key] for key in same] == [again[key] for key in same]


def test_a_function_beside_the_specification_runs_where_the_settings_allow_it(
    running: TestPlatform, folder: Path
) -> None:
    step = {
        "step": "python",
        "function": "own_steps.numbers:ratio",
        "columns": ["x", "y"],
        "makes": [{"name": "ratio", "dtype": "float64"}],
    }

    def prepare(**changes: Any) -> dict[str, Any]:
        return {"prepare": [{**step, **changes}, {"step": "features", "columns": ["x", "ratio"]}]}

    def why(spec: dict[str, Any], **environment: str) -> str:
        done = ingest(running, folder, "functions", check=False, spec=spec, **environment)
        assert done.code == 2, done.out + done.err
        return done.json()["error"]

    assert "LIGHTMILL_ALLOW_PYTHON_STEPS" in why(prepare())
    assert "no module 'nowhere'" in why(prepare(function="nowhere:f"), **ALLOW)
    assert "no function 'absent'" in why(prepare(function="own_steps.numbers:absent"), **ALLOW)
    assert "'ratio' as int64" in why(prepare(function="own_steps.numbers:whole"), **ALLOW)
    ingest(running, folder, "functions", spec=prepare(), **ALLOW)
    platform, version = opened(running, "functions")
    rows = read_rows(version, platform.location, "train")
    features = np.stack(rows.column("features").to_numpy())
    x, y = (rows.column(name).to_numpy() for name in ("x", "y"))
    np.testing.assert_allclose(features, np.stack([x, x / (1 + np.abs(y))], axis=1), rtol=1e-6)
    assert train(running, folder, "functions").json()["model_version"] == "functions@1"


def test_a_function_behind_the_augmentation_runs_in_the_training_workers(running: TestPlatform, folder: Path) -> None:
    prepare = [
        {"step": "augment", "columns": ["y"], "operations": [{"op": "noise", "std": 0.1}]},
        {
            "step": "python",
            "function": "own_steps.numbers:ratio",
            "columns": ["x", "y"],
            "makes": [{"name": "ratio", "dtype": "float64"}],
        },
        {"step": "features", "columns": ["x", "ratio"]},
    ]
    ingest(running, folder, "late", spec={"prepare": prepare}, **ALLOW)
    refused = train(running, folder, "late", check=False)
    assert refused.code == 2 and "LIGHTMILL_ALLOW_PYTHON_STEPS" in refused.json()["error"]
    assert train(running, folder, "late", **ALLOW).json()["model_version"] == "late@1"
