"""Two versions made by real ingestion: compared, every row walked back to its line, exported, read by others, let go."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.dataset
import pytest
import yaml

from lightmill.datasets.tracing import origin_of, trace_row
from lightmill.records.references import AssetKind, parse_reference
from lightmill.settings import Settings
from lightmill.wiring import open_platform
from tests.platforms import BIN, TestPlatform, temporary_platform

pytestmark = [pytest.mark.integration, pytest.mark.slow]
SECRET = "canary-mail"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("people")


def people(seed: int, rows: int, mean: float) -> list[dict[str, Any]]:
    chance = Random(seed)
    return [
        {
            "age": None if n % 17 == 3 else round(min(max(chance.gauss(mean, 9), 1), 99), 3),
            "land": chance.choice("ABC"),
            "mail": f"p{seed}.{n}@{SECRET}.example",
            "buys": chance.choice(("no", "yes")),
        }
        for n in range(rows)
    ]


def ingest(platform: TestPlatform, folder: Path, mean: float, files: int) -> None:
    for number in range(files):
        lines = [json.dumps(row) for row in people(number, 200, mean)]
        lines[5] = lines[5].replace('"land": "', '"land": "X')  # not among `values`: kept aside
        lines[9] = lines[9][:-7]  # cannot be read
        (folder / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    spec = {
        "name": "people",
        "source": {"format": "jsonl", "path": "*.jsonl"},
        "columns": [
            {"name": "age", "dtype": "float64", "max_nulls": 0.2},
            {"name": "land", "dtype": "string", "values": ["A", "B", "C"]},
            {"name": "mail", "dtype": "string", "role": "key", "tags": ["email"]},
            {"name": "buys", "dtype": "string", "role": "label", "values": ["no", "yes"]},
        ],
        "rules": {"out_of_range": "quarantine", "unreadable": "quarantine", "duplicates": "keep"},
        "masking": {"name": "staff", "rules": [{"columns": ["mail"], "action": "pseudonym"}]},
        "prepare": [
            {"step": "impute", "columns": ["age"], "with": "median"},
            {"step": "one_hot", "columns": ["land"]},
        ],
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(spec))
    platform.run(BIN / "python", "jobs/ingest.py", folder / "dataset.yaml")


@pytest.fixture(scope="module")
def platform(folder: Path) -> Iterator[TestPlatform]:
    with temporary_platform() as alone:
        ingest(alone, folder, 40, 2)
        ingest(alone, folder, 55, 3)
        yield alone


def test_what_changed_is_found_without_reading_a_row(platform: TestPlatform) -> None:
    found = platform.lightmill("datasets", "diff", "people@1", "people@2", "--json").json()
    assert found["shifts"][0]["name"] == "age" and found["shifts"][0]["mean_shift"] > 1
    assert [(one["name"], one["change"]) for one in found["sources"]] == [
        ("0.jsonl", "changed"),
        ("1.jsonl", "changed"),
        ("2.jsonl", "added"),
    ]
    counts = {(one["group"], one["name"]): (one["old"], one["new"]) for one in found["counts"]}
    assert counts["rows", "read"] == (400, 600) and counts["quarantined", "value out of range"] == (2, 3)
    assert any(one["what"] == "fitted" for one in found["preparation"]) and found["columns"] == []


def test_every_row_leads_to_its_line(platform: TestPlatform, folder: Path, tmp_path: Path) -> None:
    platform.lightmill("datasets", "export", "people@2", "--out", tmp_path / "out")
    opened = open_platform(Settings(home=platform.home)).registry
    version = opened.open(opened.resolve(AssetKind.DATASET, parse_reference("people@2")))
    from lightmill.datasets.described import described

    known = described(version)
    lines = {f"{n}.jsonl": (folder / f"{n}.jsonl").read_text().splitlines() for n in range(3)}
    rows = pyarrow.dataset.dataset(tmp_path / "out", format="parquet", exclude_invalid_files=True).to_table()
    assert len(rows) == 600 - 6
    for row in rows.select(["row_id", "age", "land"]).to_pylist():
        source, _, number, _ = origin_of(known, row["row_id"])
        assert source is not None and number is not None
        line = json.loads(lines[source.name][number - 1])
        assert (line["age"], line["land"]) == (row["age"], row["land"])
    aside = trace_row(version, (1 << 40) + 9)
    assert (aside.group, aside.source_row) == ("quarantine", 10) and aside.reason
    assert aside.source is not None
    assert aside.source.sha256 == hashlib.sha256((folder / "1.jsonl").read_bytes()).hexdigest()
    said = platform.lightmill("datasets", "row", "people@2", str((1 << 40) + 7)).out
    assert "1.jsonl" in said and SECRET not in said


def test_an_export_is_read_by_others_and_holds_nothing_that_masking_hides(
    platform: TestPlatform, tmp_path: Path
) -> None:
    duckdb = pytest.importorskip("duckdb", reason="needs duckdb (requirements-extra.lock)")
    mlcroissant = pytest.importorskip("mlcroissant", reason="needs mlcroissant (requirements-extra.lock)")
    out = tmp_path / "out"
    said = platform.lightmill("datasets", "export", "people@1", "--out", out)
    assert "not encrypted" in said.err
    held = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert SECRET.encode() not in held
    with duckdb.connect() as connection:
        query = f"SELECT count(*), count(DISTINCT mail), min(len(features)) FROM '{out}/*/*.parquet'"
        ((rows, mails, width),) = connection.sql(query).fetchall()
        assert (rows, mails, width) == (396, 396, 4)
        shown = connection.sql(f"SELECT mail FROM '{out}/*/*.parquet'").fetchall()
    assert SECRET not in str(shown)
    validate = [sys.executable, "-m", "mlcroissant.scripts.validate", "--jsonld", str(out / "croissant.json")]
    done = subprocess.run(validate, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = list(mlcroissant.Dataset(jsonld=str(out / "croissant.json")).records("rows"))
    assert len({record["rows/row_id"] for record in records}) == 396
    (tmp_path / "sealed.json").write_text(platform.lightmill("datasets", "croissant", "people@1").out)
    mlcroissant.Dataset(jsonld=str(tmp_path / "sealed.json"))
    assert SECRET not in platform.lightmill("datasets", "card", "people@1").out


def test_old_versions_go_when_they_are_let_go(platform: TestPlatform) -> None:
    plan = platform.lightmill("datasets", "retention", "people", "--keep-last", "1", "--json").json()
    assert [one["keep"] for one in plan["decisions"]] == [True, False]
    assert platform.lightmill("datasets", "row", "people@1", "0").code == 0
    done = platform.lightmill("datasets", "retention", "people", "--keep-last", "1", "--apply", "--json").json()
    assert done["deleted"] == ["people@1"]
    assert platform.lightmill("datasets", "row", "people@1", "0", check=False).code == 3
