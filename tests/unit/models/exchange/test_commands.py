"""The commands as a user gives them: each runs an operation in a process of its own, with the platform down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightmill.errors import IntegrityError, NotFoundError, RequestError
from lightmill.records.references import AssetKind, parse_reference
from lightmill.registry.names import blob_name
from lightmill.settings import Settings
from lightmill.storage import LocalStore
from lightmill.wiring.bootstrap import bootstrap
from lightmill.wiring.operations import OperationContext, run_operation
from lightmill.wiring.platform import open_platform
from tests.unit.models.exchange.samples import save

ROOT = Path(__file__).parents[4]
SCRIPT = "from lightmill.cli import main; main()"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = Settings(home=tmp_path / "home", store="", catalog="", workspace="default")
    bootstrap(found)
    return found


def run(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LIGHTMILL_", "RAY_"))}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, "models", *arguments],
        env={**kept, "PYTHONPATH": str(ROOT / "platform"), "LIGHTMILL_HOME": str(settings.home), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def operated(settings: Settings, operation: str, /, **options: object) -> dict[str, Any]:
    """Run an operation in this process, as its own process does."""
    context = OperationContext(settings=settings, report=lambda _: None)
    return run_operation(operation, options, context).model_dump(mode="json")


def damage(settings: Settings, name: str) -> str:
    """Flip one bit of the model's first object; return the object's name."""
    platform = open_platform(settings)
    with platform.catalog:
        id = platform.registry.resolve(AssetKind.MODEL, parse_reference(name))
        found = blob_name(platform.registry.open(id).manifest.blobs[0].id)
    path = LocalStore(Path(settings.store_url)).path(found)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return found


def test_import_and_verify_on_the_command_line(settings: Settings, tmp_path: Path) -> None:
    path = save(tmp_path / "w.safetensors")
    done = run(settings, "import", str(path), "--name", "plain", "--alias", "champion")
    assert done.returncode == 0, done.stderr
    assert "plain@1" in done.stdout and "tensors" in done.stdout
    found = damage(settings, "plain@champion")
    done = run(settings, "verify", "plain@champion", "--json")
    assert (done.returncode, json.loads(done.stdout)["type"]) == (6, "IntegrityError")
    assert found in json.loads(done.stdout)["error"]


@pytest.mark.slow
def test_the_whole_path_on_the_command_line(settings: Settings, tmp_path: Path) -> None:
    for module in ("model_signing", "transformers"):
        pytest.importorskip(module, reason="needs the extras hf and exchange")
    from tests.unit.models.exchange.samples import folder_of

    folder = folder_of(tmp_path / "m")
    done = run(settings, "import", str(folder), "--name", "bert", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"]["id"]["seq"] == 1
    out = tmp_path / "out"
    done = run(settings, "export", "bert", str(out))
    assert done.returncode == 0, done.stderr
    assert "not encrypted" in done.stderr and "model.sig" in done.stdout
    done = run(settings, "verify", f"{out}/")
    assert done.returncode == 0 and "As it was signed" in done.stdout, done.stderr
    done = run(settings, "verify", "bert@1", "--sample", "50%", "--seed", "3")
    assert done.returncode == 0 and "--seed 3" in done.stdout, done.stderr
    (out / "vocab.txt").write_text("changed")
    done = run(settings, "verify", str(out))
    assert done.returncode == 6 and "vocab.txt" in done.stderr
    assert run(settings, "export", "bert", str(out)).returncode == 4
    assert run(settings, "export", "bert@7", str(tmp_path / "o")).returncode == 3
    assert run(settings, "verify", "bert", "--sample", "lots").returncode == 2


def test_operations_say_what_is_wrong(settings: Settings, tmp_path: Path) -> None:
    for options, kind in (
        ({}, RequestError),
        ({"reference": "m", "folder": "/x"}, RequestError),
        ({"reference": "none"}, NotFoundError),
        ({"reference": "m", "sample_percent": 0}, RequestError),
        ({"reference": "m", "sample_percent": 101}, RequestError),
        ({"folder": str(tmp_path / "nothing")}, NotFoundError),
    ):
        with pytest.raises(kind):
            operated(settings, "models.verify", **options)
    with pytest.raises(RequestError, match="format"):
        operated(settings, "models.export", reference="m", folder="/x", format="pickle")


def test_a_card_may_be_yaml(settings: Settings, tmp_path: Path) -> None:
    path = save(tmp_path / "w.safetensors")
    (tmp_path / "card.yaml").write_text(
        "architecture: {name: logistic, arguments: {inputs: 4, classes: 3}}\n"
        "preprocessing: {steps: []}\n"
        "signature:\n"
        "  inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]\n"
        "  outputs: [{name: probabilities, datatype: FP32, shape: [-1, 3]}]\n"
        "classes: [a, b, c]\n"
        "metrics: {}\n"
    )
    done = operated(settings, "models.import", path=str(path), name="m", card=str(tmp_path / "card.yaml"))
    assert done["version"]["card"]["architecture"]["name"] == "logistic"
    (tmp_path / "card.yaml").write_text("classes: [")
    with pytest.raises(RequestError, match="not valid YAML"):
        operated(settings, "models.import", path=str(path), name="m", card=str(tmp_path / "card.yaml"))
    (tmp_path / "card.yaml").write_text("classes: []")
    with pytest.raises(RequestError, match="no model card"):
        operated(settings, "models.import", path=str(path), name="m", card=str(tmp_path / "card.yaml"))


def test_damage_is_an_integrity_error_of_the_operation(settings: Settings, tmp_path: Path) -> None:
    operated(settings, "models.import", path=str(save(tmp_path / "w.safetensors")), name="m")
    assert operated(settings, "models.verify", reference="m")["version"]["objects"] == 1
    found = damage(settings, "m")
    with pytest.raises(IntegrityError, match=found):
        operated(settings, "models.verify", reference="m")
