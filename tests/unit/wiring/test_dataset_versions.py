"""Operations on dataset versions as the command line runs them, on a home of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lightmill.errors import ConflictError, NotFoundError, RequestError
from lightmill.settings import Settings
from lightmill.wiring.bootstrap import bootstrap
from lightmill.wiring.operations import OperationContext, run_operation
from lightmill.wiring.platform import open_platform
from tests.unit.datasets.published import People, publish

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    settings = Settings(home=tmp_path / "home")
    bootstrap(settings)
    platform = open_platform(settings)
    with platform.catalog:
        publish(platform.registry)
        publish(platform.registry, People(rows=600, age=60))
    return settings.home


def operation(home: Path, operation: str, /, **options: object) -> dict[str, object]:
    context = OperationContext(settings=Settings(home=home), report=lambda _: None)
    return run_operation(operation, options, context).model_dump(mode="json")


def test_operations_answer_or_say_what_is_wrong(home: Path, tmp_path: Path) -> None:
    assert operation(home, "datasets.diff", old="people@1", new="people@2")["shifts"]
    assert operation(home, "datasets.row", reference="people@1", row_id=3)["source_row"] == 4
    assert operation(home, "datasets.row", reference="people@1", split="test", position=0)["row_id"] == 2
    assert operation(home, "datasets.export", reference="people", folder=str(tmp_path / "out"))["rows"] == 600
    assert json.loads(str(operation(home, "datasets.croissant", reference="people@1")["text"]))["version"] == "1.0.0"
    assert str(operation(home, "datasets.card", reference="people@1")["text"]).startswith("---\n")
    for kind, options in (
        (RequestError, {"reference": "people@1"}),
        (RequestError, {"reference": "people@1", "row_id": 1, "split": "test", "position": 1}),
        (NotFoundError, {"reference": "people@7", "row_id": 1}),
    ):
        with pytest.raises(kind):
            operation(home, "datasets.row", **options)
    with pytest.raises(ConflictError):
        operation(home, "datasets.export", reference="people", folder=str(tmp_path / "out"))


def test_retention_deletes_only_when_it_is_applied(home: Path) -> None:
    options = {"kind": "dataset", "name": "people", "policy": {"keep_last": 1}}
    assert operation(home, "registry.retention", **options)["deleted"] == []
    assert operation(home, "registry.retention", **options, apply=True)["deleted"] == ["people@1"]
    with pytest.raises(RequestError, match="keep_last, keep_days"):
        operation(home, "registry.retention", kind="dataset", name="people", policy={})
    with pytest.raises(NotFoundError):
        operation(home, "registry.retention", kind="model", name="people", policy={"keep_last": 1})


@pytest.fixture
def run(home: Path) -> Run:
    environment = {**os.environ, "LIGHTMILL_HOME": str(home), "PYTHONPATH": ":".join(sys.path), "COLUMNS": "200"}

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        command = [sys.executable, "-c", "from lightmill.cli import main; main()", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_comparison_is_printed_as_tables(run: Run) -> None:
    code, out, err = run("datasets", "diff", "people@1", "people@2", "--limit", "3")
    assert code == 0, err
    lines = [line for line in out.splitlines() if "│" in line]
    assert next(line for line in lines if "histograms" in line or "categories" in line).split()[1] == "age"
    for said in ("Distributions, the largest changes first", "Sources: none", "+300"):
        assert said in out
    assert "more; see --limit" in err


@pytest.mark.slow
def test_every_command_prints_for_people_and_for_scripts(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("datasets", "row", "people@1", "200")
    assert code == 0 and "people.csv" in out and "test, position 66" in out
    assert json.loads(run("datasets", "row", "people@1", "--split", "quarantine", "--position", "0", "--json")[1])[
        "reason"
    ]
    assert run("datasets", "row", "people@1")[0] == 2 and run("datasets", "row", "people@1", "99999")[0] == 3
    code, out, err = run("datasets", "export", "people@2", "--out", tmp_path / "out", "--columns", "age, label")
    assert code == 0 and "croissant.json" in out and "not encrypted" in err
    assert run("datasets", "export", "people@2", "--out", tmp_path / "out", "--json")[0] == 4
    code, out, _ = run(
        "datasets", "export", "people@2", "--out", tmp_path / "out", "--splits", "test", "--force", "--json"
    )
    assert (code, json.loads(out)["rows"]) == (0, 200)
    assert json.loads(run("datasets", "croissant", "people@2")[1])["@type"] == "sc:Dataset"
    assert run("datasets", "card", "people@2")[1].startswith("---\n")
    code, out, err = run("datasets", "retention", "people", "--keep-last", "1")
    assert code == 0 and "goes" in out and "it is the newest" in out and "Nothing was deleted" in err
    assert json.loads(run("datasets", "retention", "people", "--keep-days", "1", "--json")[1])["applied"] is False
    assert run("datasets", "retention", "people")[0] == 2
    code, _, err = run("datasets", "retention", "people", "--keep-last", "1", "--apply")
    assert code == 0 and "1 deleted" in err
    assert run("datasets", "row", "people@1", "1")[0] == 3
