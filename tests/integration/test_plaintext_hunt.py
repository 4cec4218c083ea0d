"""No plaintext of rows or weights in any file that the platform writes, with kill -9 at random moments.

Rows are ingested, models are trained, checkpointed, published, loaded and backed up. Values and weights are random
numbers, so that four of them in a row are met by chance nowhere. What is searched: the home with store and catalog,
the backup, Ray's session with its logs and spilled objects, and the temporary folder of every process. Names of
columns, tensors and models are looked for where nobody without a key may read them: in the store, in the backup and
among temporary files but for logs. A control that writes the same things in the clear is found, so the search works.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import torch
import yaml
from safetensors.torch import save_file

from lightmill.datasets.reading import feature_rows, read_rows
from lightmill.records.references import AssetKind, Reference, VersionId
from lightmill.registry.tensors import load_tensors
from lightmill.settings import Settings
from lightmill.wiring import open_platform
from lightmill.wiring.platform import Platform
from tests.integration.carrier import NAME
from tests.platforms import BIN, ROOT, TestPlatform, temporary_platform
from tests.unit.registry.world import open_latest

pytestmark = [pytest.mark.integration, pytest.mark.slow]
COLUMNS = 12
ROWS = 3000
KILLS = 5
CARRIERS = 10
NAMES = [b"canary", b"hunted"]
LONGEST_S = 30.0


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows of random numbers and the two specifications; it is the user's own and not searched."""
    folder = tmp_path_factory.mktemp("source")
    values = np.random.default_rng(3).normal(size=(ROWS, COLUMNS))
    names = [f"canary{n:02d}" for n in range(COLUMNS)]
    lines = [",".join([*names, "kind"])]
    lines += [",".join([*(repr(float(x)) for x in row), str(int(row.sum() > 0))]) for row in values]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    dataset = {
        "name": "hunted",
        "source": {"format": "csv", "path": "rows.csv"},
        "features": {"name": "values", "shape": [COLUMNS]},
        "columns": [
            {"name": f"canary{{00..{COLUMNS - 1:02d}}}", "dtype": "float64", "role": "feature"},
            {"name": "kind", "dtype": "int64", "role": "label", "values": [0, 1]},
        ],
        "split": {"train": 0.7, "validation": 0.1, "test": 0.2, "stratify": True, "seed": 0},
        "prepare": [{"step": "standardize"}],
    }
    train = {
        "model": "hunted",
        "dataset": "hunted@latest",
        "architecture": {"name": "mlp", "arguments": {"hidden": [64]}},
        "epochs": 6,
        "workers": 2,
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(dataset))
    (folder / "train.yaml").write_text(yaml.safe_dump(train))
    return folder


@pytest.fixture(scope="module")
def hunted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestPlatform, Path, Path]]:
    """A home on which jobs were killed at random moments and then ran to their end; its temporary folder; a backup."""
    temporary, copy = tmp_path_factory.mktemp("temporary"), tmp_path_factory.mktemp("backup") / "store"
    chance = Random(11)
    with temporary_platform() as platform:
        for _ in range(KILLS):
            kill_at_random(platform, "ingest", source / "dataset.yaml", chance, temporary)
        platform.run(BIN / "python", "jobs/ingest.py", source / "dataset.yaml", TMPDIR=str(temporary))
        for _ in range(KILLS):
            kill_at_random(platform, "train", source / "train.yaml", chance, temporary)
        platform.run(BIN / "python", "jobs/train.py", source / "train.yaml", TMPDIR=str(temporary))
        for life in range(CARRIERS):
            kill_carrier(platform, copy, 1000 * life, chance, temporary)
        yield platform, temporary, copy


def kill_at_random(platform: TestPlatform, job: str, spec: Path, chance: Random, temporary: Path) -> None:
    """Start a job and kill it, with every process of its own Ray, after a while that chance decides."""
    process = subprocess.Popen(
        [BIN / "python", f"jobs/{job}.py", spec],
        cwd=ROOT,
        env=platform.environment | {"TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + chance.uniform(1.0, LONGEST_S)
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.1)
    with suppress(psutil.NoSuchProcess):  # it may have come to its end before
        driver = psutil.Process(process.pid)
        for victim in [*driver.children(recursive=True), driver]:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
    process.wait()
    for left in platform.processes():
        with suppress(psutil.NoSuchProcess):
            left.kill()


def kill_carrier(platform: TestPlatform, copy: Path, seed: int, chance: Random, temporary: Path) -> None:
    """Let a process publish, load and back up, and kill it at a moment that chance decides after its first round."""
    with subprocess.Popen(
        [BIN / "python", "-m", "tests.integration.carrier", str(platform.home), str(copy), str(seed)],
        cwd=ROOT,
        env=platform.environment | {"TMPDIR": str(temporary), "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}"},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == str(seed).encode()
        time.sleep(chance.uniform(0, 0.5))
        process.kill()


def needles(platform: Platform) -> list[bytes]:
    """Four numbers in a row from all rows and all weights, as the bytes they have in memory and as text."""
    found: list[bytes] = []
    for dataset in versions(platform, AssetKind.DATASET):
        opened = platform.registry.open(dataset)
        for split in ("train", "validation", "test"):
            table = read_rows(opened, platform.location, split)
            prepared = feature_rows(table)
            kept = np.stack([table.column(f"canary{n:02d}").to_numpy() for n in range(COLUMNS)], axis=1)
            for array in (prepared, kept):
                found += runs(array)
            found += [repr(float(value)).encode() for value in kept[::50, 0].astype(np.float64)]
    for kind in (AssetKind.MODEL, AssetKind.RUN):
        for version in versions(platform, kind):
            for tensor in load_tensors(platform.registry.open(version)).values():
                if tensor.dtype == torch.float32 and tensor.numel() >= COLUMNS:
                    found += runs(tensor.reshape(-1, tensor.shape[-1]).numpy())
    return found


def runs(array: npt.NDArray[np.float32]) -> list[bytes]:
    every = array[:: max(1, len(array) // 40)]
    texts = [row[:4].astype(dtype).tobytes() for row in every for dtype in ("<f4", "<f8") if np.abs(row[:4]).min() > 0]
    return [text for text in texts if len(set(text)) > 8]


def versions(platform: Platform, kind: AssetKind) -> list[VersionId]:
    names = [asset.name for asset in platform.catalog.versions.assets(kind)]
    found = []
    for name in names:
        for seq in range(1, platform.registry.latest(kind, name) + 1):
            found.append(platform.registry.resolve(kind, Reference(name=name, selector=str(seq))))
    return found


def hits(folders: list[Path], wanted: list[bytes]) -> tuple[int, list[Path]]:
    """Return how many files were searched and in which something was found."""
    searched, found = 0, []
    for folder in folders:
        for path in folder.rglob("*"):
            if not path.is_file() or path.is_symlink():
                continue
            searched += 1
            data = path.read_bytes()
            if any(needle in data for needle in wanted):
                found.append(path)
    return searched, found


def test_no_file_shows_a_row_or_a_weight(hunted: tuple[TestPlatform, Path, Path], tmp_path: Path) -> None:
    tested, temporary, copy = hunted
    platform = open_platform(Settings(home=tested.home))
    wanted = needles(platform)
    carried = len(versions(platform, AssetKind.MODEL)) - 1
    assert len(wanted) > 500 and carried >= CARRIERS
    searched, found = hits([tested.home, tested.sessions, temporary, copy], wanted)
    named = [path for path in hits([tested.home / "store", temporary, copy], NAMES)[1] if "logs" not in path.parts]
    print(
        f"\n{searched} files searched for {len(wanted)} pieces of rows and weights after {2 * KILLS + CARRIERS} kills; "
        f"{carried} versions published, loaded and backed up beside"
    )
    assert searched > 100
    assert found == [] and named == []
    version = open_latest(platform.registry, NAME)
    save_file(load_tensors(version), tmp_path / "control.safetensors")
    assert hits([tmp_path], wanted)[1] == hits([tmp_path], NAMES)[1] == [tmp_path / "control.safetensors"]
