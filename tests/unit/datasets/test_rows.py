"""What every pass begins with: rows judged, rows that cannot be read told apart, and nothing personal kept aside."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from lightmill.datasets.quarantine import quarantine, unreadable
from lightmill.datasets.rows import RowReader, open_blocks
from lightmill.datasets.sources.blocks import read_blocks, task_groups
from lightmill.datasets.verdicts import bad_rows
from lightmill.errors import RequestError
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.registry import RegistryLocation
from tests.unit.registry.world import World

SPEC = yaml.safe_load("""
name: people
source: {format: jsonl, path: people.jsonl}
columns:
  - {name: age, dtype: int64, maximum: 120}
  - {name: mail, dtype: string, role: key, tags: [email]}
  - {name: note, dtype: string, role: text}
  - {name: buys, dtype: string, role: label, values: ["no", "yes"]}
rules: {out_of_range: quarantine, unreadable: quarantine, type: quarantine}
masking:
  name: staff
  rules:
    - {tags: [email], action: pseudonym}
    - {detectors: [card], action: redact}
""")
CARD = "4111 1111 1111 1111"
ROWS = [
    {"age": 30, "mail": "a@canary.example", "note": f"card {CARD}", "buys": "no"},
    {"age": 300, "mail": "b@canary.example", "note": f"card {CARD}", "buys": "yes"},
    {"age": "old", "mail": "c@canary.example", "note": "", "buys": "yes"},
]


@pytest.fixture
def reader(tmp_path: Path) -> tuple[RowReader, pa.Table]:
    world = World(tmp_path / "world")
    lines = [*map(json.dumps, ROWS), '{"age": 5, "mail": "d@canary.example"']
    (tmp_path / "people.jsonl").write_text("\n".join(lines) + "\n")
    location = RegistryLocation(store_url=str(world.root), keyring_path=str(world.ring.path), workspace="default")
    spec = DatasetSpec.model_validate(SPEC)
    blocks = open_blocks(spec, tmp_path)
    (block,) = read_blocks(blocks.source, blocks.parts[0])
    assert blocks.locate(1) == (blocks.parts[0].path, 2)
    assert task_groups(blocks.parts) == [list(blocks.parts)]
    return RowReader(spec, location), block


def test_rows_are_judged_and_what_cannot_be_read_stands_apart(reader: tuple[RowReader, pa.Table]) -> None:
    found = reader[0].judged(reader[1])
    assert len(found.source) == len(found.judgement.row_id) == 2
    assert found.judgement.verdict.tolist()[0] == 0 and found.judgement.verdict[1] != 0
    assert [(bad.row, bad.kind) for bad in found.bad] == [(2, "type"), (3, "unreadable")]


def test_masking_is_the_same_in_every_process_and_blind_to_no_row(reader: tuple[RowReader, pa.Table]) -> None:
    judgement = reader[0].judged(reader[1]).judgement
    first, report = reader[0].masked(judgement.table, judgement.row_id)
    again, _ = pickle.loads(pickle.dumps(reader[0])).masked(judgement.table, judgement.row_id)
    assert first.equals(again) and report is not None and report.rows == 2
    shown = json.dumps(first.to_pylist())
    assert "canary" not in shown and CARD not in shown
    assert reader[0].schema.field("mail").type == pa.string()


def test_nothing_that_the_policy_hides_is_kept_aside(reader: tuple[RowReader, pa.Table]) -> None:
    found = reader[0].judged(reader[1])
    rows = bad_rows(found.judgement.verdict, DatasetSpec.model_validate(SPEC).rules, "quarantine")
    aside = quarantine(found.source, found.judgement, rows, lambda row: ("people.jsonl", row + 1))
    lost = unreadable(found.bad)
    shown = json.dumps([reader[0].masked_aside(table).to_pylist() for table in (aside, lost)])
    assert "canary" not in shown and CARD not in shown
    assert "300" in shown and "out of range" in shown and "[masked]" in shown and "unreadable" in shown


def test_a_policy_that_a_model_could_not_be_served_behind_is_refused(tmp_path: Path) -> None:
    location = RegistryLocation(store_url=str(tmp_path), keyring_path="none", workspace="default")
    for rule in ({"columns": ["note"], "action": "redact"}, {"columns": ["*"], "action": "pseudonym"}):
        spec = DatasetSpec.model_validate(SPEC | {"masking": {"name": "staff", "rules": [rule]}})
        with pytest.raises(RequestError, match="role"):
            RowReader(spec, location).check_masking()
    RowReader(DatasetSpec.model_validate(SPEC), location).check_masking()


def test_an_ignored_column_is_read_when_something_is_asked_of_it(tmp_path: Path) -> None:
    (tmp_path / "people.jsonl").write_text(json.dumps(ROWS[0] | {"id": 1, "rest": 2}) + "\n")
    extra = [{"name": "id", "dtype": "int64", "role": "ignore", "unique": True}]
    extra += [{"name": "rest", "dtype": "int64", "role": "ignore"}]
    spec = DatasetSpec.model_validate(SPEC | {"columns": [*SPEC["columns"], *extra]})
    names = open_blocks(spec, tmp_path).source.schema().names
    assert "id" in names and "rest" not in names


def two_files(folder: Path) -> None:
    (folder / "l.csv").write_text("k,a\n1,10\n2,20\n")
    (folder / "r.csv").write_text("k,b\n2,x\n1,y\n")


@pytest.mark.parametrize("declared", [["k", "a", "b"], ["a", "b"]])
def test_joined_sources_are_opened_for_the_columns_that_each_has(tmp_path: Path, declared: list[str]) -> None:
    two_files(tmp_path)
    kinds = {"k": "int64", "a": "int64", "b": "string"}
    spec = DatasetSpec.model_validate(
        {
            "name": "joined",
            "sources": [{"format": "csv", "path": "l.csv"}, {"format": "csv", "path": "r.csv"}],
            "combine": {"how": "join", "on": ["k"]},
            "columns": [{"name": name, "dtype": kinds[name], "role": "key"} for name in declared],
            "split": {"by": "random"},
        }
    )
    blocks = open_blocks(spec, tmp_path)
    (block,) = read_blocks(blocks.source, blocks.parts[0])
    assert block.select(["a", "b"]).to_pylist() == [{"a": 10, "b": "y"}, {"a": 20, "b": "x"}]
    before = blocks.source.identity()
    (tmp_path / "r.csv").write_text("k,b\n2,x\n1,other\n")
    assert open_blocks(spec, tmp_path).source.identity() != before
    with pytest.raises(RequestError, match="No source has the column 'c'"):
        more = {"columns": [*spec.model_dump()["columns"], {"name": "c", "dtype": "int64"}]}
        open_blocks(DatasetSpec.model_validate(spec.model_dump() | more), tmp_path)


def test_a_union_fills_what_a_source_lacks(tmp_path: Path) -> None:
    two_files(tmp_path)
    spec = DatasetSpec.model_validate(
        {
            "name": "union",
            "sources": [{"format": "csv", "path": "l.csv"}, {"format": "csv", "path": "r.csv"}],
            "combine": {"how": "union", "fill_nulls": True},
            "columns": [
                {"name": "k", "dtype": "int64"},
                {"name": "a", "dtype": "int64", "max_nulls": 1},
                {"name": "b", "dtype": "string", "role": "key", "max_nulls": 1},
            ],
            "split": {"by": "random"},
        }
    )
    blocks = open_blocks(spec, tmp_path)
    rows = pa.concat_tables([block for part in blocks.parts for block in read_blocks(blocks.source, part)])
    assert rows.select(["k", "a", "b"]).to_pylist()[::3] == [
        {"k": 1, "a": 10, "b": None},
        {"k": 1, "a": None, "b": "y"},
    ]
