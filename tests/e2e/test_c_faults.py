"""What goes wrong: killed jobs, damaged files, full ports, wrong specifications, restarts."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

import lightmill
from lightmill.errors import JobError, LightmillError
from lightmill.records.jobs import JobState
from lightmill.sdk import Client
from tests.platforms import ROOT, TestPlatform

pytestmark = pytest.mark.e2e
DIGITS = ROOT / "examples" / "digits"


def quick(model: str, **changes: object) -> dict[str, object]:
    return {
        "model": model,
        "dataset": "digits@latest",
        "architecture": {"name": "mlp", "arguments": {"hidden": [16]}},
        "epochs": 1,
        "workers": 1,
    } | changes


@pytest.mark.parametrize(
    ("file", "change", "code", "words"),
    [
        ("train.yaml", {"epcohs": 3}, 2, ["epcohs", "epochs"]),
        ("train.yaml", {"epochs": "many"}, 2, ["epochs", "many"]),
        ("train.yaml", {"dataset": "nothing@latest"}, 3, ["nothing"]),
        (
            "train.yaml",
            {"architecture": {"name": "mlp", "arguments": {"inputs": 5, "hidden": [4]}}},
            2,
            ["inputs", "64"],
        ),
        ("dataset.yaml", {"source": {"format": "csv", "path": "absent.csv"}}, 3, ["absent.csv"]),
        ("dataset.yaml", {"split": {"train": 0.9}}, 2, ["split", "1"]),
        ("endpoint.yaml", {"model": "digits@nobody"}, 3, ["nobody", "champion"]),
        ("endpoint.yaml", {"replicas": {"min": 3, "max": 1}}, 2, ["min 3", "max 1"]),
    ],
)
def test_wrong_specifications(
    platform: TestPlatform, tmp_path: Path, file: str, change: dict[str, object], code: int, words: list[str]
) -> None:
    spec = yaml.safe_load((DIGITS / file).read_text()) | change
    if file == "dataset.yaml" and "source" not in change:
        spec["source"]["path"] = str(DIGITS / "digits.csv")
    path = tmp_path / file
    path.write_text(yaml.safe_dump(spec))
    command = {"train.yaml": "train", "dataset.yaml": "ingest", "endpoint.yaml": "deploy"}[file]
    done = platform.lightmill(command, path, check=False)
    assert done.code == code, done.err
    assert [word for word in words if word not in done.err] == []
    assert "Traceback" not in done.err + done.out


def test_missing_column_fails_the_job_with_its_name(client: Client) -> None:
    spec = yaml.safe_load((DIGITS / "dataset.yaml").read_text())
    spec |= {"name": "faulty", "source": {"format": "csv", "path": str(DIGITS / "digits.csv")}}
    spec["columns"][1]["name"] = "number"
    with pytest.raises(JobError, match="no column 'number'"):
        client.jobs.wait(client.jobs.ingest(spec).id)
    assert "faulty" not in [dataset.name for dataset in client.datasets.list()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resources": {"cpus": 1, "gpus": 1}}, "GPU"),
    ],
)
def test_what_can_never_be_placed_is_refused(client: Client, change: dict[str, object], words: str) -> None:
    with pytest.raises(JobError, match=words):
        client.jobs.wait(client.jobs.train(quick("never", **change)).id)


def stored_blobs(platform: TestPlatform) -> set[Path]:
    return {path for path in (platform.home / "store" / "b").rglob("*") if path.is_file()}


def flip_last(path: Path) -> None:
    """Change one bit of a stored file; a second time makes it what it was."""
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@dataclass(frozen=True)
class Killed:
    """A training job that was killed, and what the same specification left when it ran again."""

    versions_after_kill: list[str]
    state: JobState
    again: str
    blobs: set[Path]


@pytest.fixture(scope="module")
def killed(platform: TestPlatform, client: Client) -> Killed:
    job = client.jobs.train(quick("killed", epochs=100_000))
    end = time.monotonic() + 120
    while not client.jobs.metrics(job.id):
        assert time.monotonic() < end, client.jobs.logs(job.id)
        time.sleep(0.2)
    drivers = [
        process
        for process in psutil.process_iter()
        if any(job.id in word for word in _cmdline(process)) and "train.py" in " ".join(_cmdline(process))
    ]
    assert drivers
    for driver in drivers:
        driver.kill()
    with pytest.raises(JobError):
        client.jobs.wait(job.id, timeout_s=60)
    models, state = [model.name for model in client.models.list()], client.jobs.show(job.id).state
    before = stored_blobs(platform)
    again = client.jobs.wait(client.jobs.train(quick("killed")).id)
    return Killed(models, state, str(again.result["model_version"]), stored_blobs(platform) - before)


def test_killed_job_leaves_no_version(killed: Killed) -> None:
    assert killed.state is JobState.FAILED
    assert "killed" not in killed.versions_after_kill
    assert killed.again == "killed@1"


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_cancelled_job(client: Client) -> None:
    job = client.jobs.train(quick("cancelled", epochs=100_000))
    assert client.jobs.cancel(job.id).state is JobState.CANCELLED
    with pytest.raises(JobError, match="cancelled"):
        client.jobs.wait(job.id)


def test_one_flipped_byte_is_refused_by_name(platform: TestPlatform, client: Client, killed: Killed) -> None:
    """A version with a damaged blob never answers; the endpoint says which object it is."""
    version = client.models.version(killed.again).version
    for path in killed.blobs:
        flip_last(path)
    with pytest.raises(LightmillError) as refused:
        client.endpoints.deploy({"name": "damaged", "model": killed.again}, timeout_s=120)
    assert any(path.name in str(refused.value) for path in killed.blobs), (str(refused.value), version.id)
    checked = platform.lightmill("registry", "check", "--json", check=False)
    assert checked.code == 6
    damaged = {finding["object"].rpartition("/")[2] for finding in checked.json()["findings"]}
    assert {path.name for path in killed.blobs} <= damaged
    for path in killed.blobs:
        flip_last(path)
    client.endpoints.delete("damaged")


def test_port_in_use(platform: TestPlatform, tmp_path: Path) -> None:
    done = platform.lightmill("up", check=False, LIGHTMILL_HOME=str(tmp_path / "other"))
    assert done.code == 4
    assert platform.environment["LIGHTMILL_HTTP_PORT"] in done.err and "LIGHTMILL_HTTP_PORT" in done.err
    assert not (tmp_path / "other" / "platform.json").exists()


def test_endpoints_come_back_after_a_crash(platform: TestPlatform, client: Client) -> None:
    """Ray is killed outright; the next `up` ends what is left of it, starts anew and brings the endpoints back."""
    before = client.endpoints.show("digits")
    victims = [p for p in platform.processes() if (_cmdline(p) or [""])[0].endswith(("/raylet", "/gcs_server"))]
    assert len(victims) == 2
    for process in victims:
        process.kill()
    assert platform.lightmill("up", "--json").json()["changed"] is True
    endpoint = client.endpoints.wait("digits")
    assert (endpoint.version, endpoint.revision) == (before.version, before.revision)
    assert answers(client)


def answers(client: Client) -> list[tuple[int, list[float]]]:
    """Return label and probabilities of a few rows that were held out."""
    rows = client.datasets.rows("digits@1", "test", limit=50)
    pixels = [[rows[f"p{n:02d}"][i] for n in range(64)] for i in range(50)]
    found = client.endpoints.predict("digits", pixels)
    assert sum(a.label == b for a, b in zip(found, rows["label"], strict=True)) >= 45
    return [(a.label, list(a.probabilities)) for a in found]


def test_restored_backup_gives_equal_predictions(platform: TestPlatform, client: Client, tmp_path: Path) -> None:
    """Store and catalog are wiped; key ring and backup alone bring the same versions and the same answers back."""
    golden, digest = answers(client), client.models.version("digits@champion").version.id.digest
    backup = tmp_path / "backup"
    first = platform.lightmill("registry", "backup", backup, "--json").json()
    assert first["copied"] > 50 and first["findings"] == []
    assert platform.lightmill("registry", "backup", backup, "--json").json()["copied"] <= 2
    assert platform.lightmill("down", "--json").json()["ended"] > 5
    assert platform.processes() == []
    shutil.rmtree(platform.home / "store")
    for path in platform.home.glob("catalog.db*"):
        path.unlink()
    restored = platform.lightmill("registry", "restore", backup, "--json").json()
    assert restored["check"]["findings"] == []
    platform.lightmill("up")
    with lightmill.connect(platform.url, platform.key) as again:
        again.endpoints.deploy(DIGITS / "endpoint.yaml")
        assert again.models.version("digits@champion").version.id.digest == digest
        assert answers(again) == golden


def test_down_leaves_nothing(platform: TestPlatform) -> None:
    assert platform.lightmill("down", "--json").json()["ended"] > 5
    assert platform.processes() == []
    assert platform.lightmill("status", check=False).code == 7
    assert platform.lightmill("down", check=False).code == 3


def test_wrong_key_ring_is_refused(platform: TestPlatform) -> None:
    ring = platform.home / "keys" / "keyring.json"
    kept = ring.rename(ring.with_suffix(".kept"))
    refused = platform.lightmill("up", check=False)
    assert refused.code == 6 and "key ring" in refused.err
    assert platform.processes() == []
    kept.rename(ring)


def test_nothing_is_left(platform: TestPlatform) -> None:
    assert platform.lightmill("down", check=False).code == 3
    assert platform.processes() == []
    assert json.loads((platform.home / "store" / "lightmill.json").read_text())["format"]
