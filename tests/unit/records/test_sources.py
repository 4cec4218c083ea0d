"""Source specifications: what they take, and that no URL carries a secret."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from lightmill.records.sources import (
    CombineSpec,
    CsvSpec,
    JoinSpec,
    JsonlSpec,
    PluginSpec,
    SourceSpec,
    SqlSpec,
    UnionSpec,
)

SOURCE: TypeAdapter[Any] = TypeAdapter(SourceSpec)
SHA256 = "ab" * 32


def test_the_format_chooses_the_record_and_csv_is_the_default() -> None:
    assert isinstance(SOURCE.validate_python({"path": "d.csv"}), CsvSpec)
    assert isinstance(SOURCE.validate_python({"format": "jsonl", "path": ["a", "b"]}), JsonlSpec)
    plugin = SOURCE.validate_python({"format": "lance", "path": "x", "options": {"rows": 5}})
    assert isinstance(plugin, PluginSpec)
    for spec in (plugin, SOURCE.validate_python({"path": "d.csv", "encoding": "LATIN1"})):
        assert SOURCE.validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    "spec",
    [
        {"path": "https://user:pass-7731@host/x.csv", "sha256": SHA256},
        {"path": "https://token-7731@host/x.csv", "sha256": SHA256},
        {"path": "https://host/x.csv?X-Amz-Signature=7731", "sha256": SHA256},
        {"path": "https://host/x.csv?api_key=7731", "sha256": SHA256},
        {"path": "s3://KEY:7731@bucket/x.csv"},
        {"path": "s3://bucket/x?secret_key=7731"},
        {"path": "s3://bucket/x", "endpoint": "http://u:7731@host"},
        {"format": "sql", "url": "postgresql://u:7731@host/db", "table": "t", "key": "id"},
        {"format": "sql", "url": "postgresql://host/db?password=7731", "table": "t", "key": "id"},
        {"format": "delta", "path": "s3://u:7731@bucket/t"},
        {"format": "iceberg", "metadata": "s3://u:7731@bucket/t.json"},
    ],
)
def test_a_secret_in_a_url_is_refused_and_said_why(spec: dict) -> None:
    with pytest.raises(ValidationError) as said:
        SOURCE.validate_python(spec)
    assert "through the environment" in said.value.errors()[0]["msg"]
    assert "7731" not in said.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"path": ""}, "names nothing"),
        ({"path": []}, "names nothing"),
        ({"path": "https://host/x.csv"}, "with its sha256"),
        ({"path": ["https://host/x.csv", "y.csv"], "sha256": SHA256}, "one path with its sha256"),
        ({"path": "x.csv", "sha256": SHA256}, "leave it out"),
        ({"path": "x.csv", "encoding": "utf-99"}, "no text encoding"),
        ({"path": "x.csv", "encoding": "hex"}, "encoding"),
        ({"path": "x.csv", "delimiter": "||"}, "match pattern"),
        ({"path": "x.csv", "quoted": True}, "Extra inputs"),
        ({"path": "x.csv", "limits": {"cell_bytes": 0}}, "greater than"),
        ({"format": "sql", "table": "t", "key": "id"}, "give url"),
        ({"format": "sql", "url": "sqlite:///x", "key": "id"}, "give table, or query"),
        ({"format": "sql", "url_environment": "A B", "table": "t", "key": "id"}, "environment variable"),
    ],
)
def test_what_makes_no_sense_is_refused(spec: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SOURCE.validate_python(spec)


def test_a_user_without_a_password_may_be_in_a_database_url() -> None:
    spec = SOURCE.validate_python({"format": "sql", "url": "postgresql://me@host/db", "table": "t", "key": "id"})
    assert isinstance(spec, SqlSpec)


def test_combinations() -> None:
    combine: TypeAdapter[Any] = TypeAdapter(CombineSpec)
    assert combine.validate_python({}) == UnionSpec()
    assert combine.validate_python({"how": "join", "on": ["id"]}) == JoinSpec(how="join", on=("id",))
    for wrong in ({"how": "cross"}, {"how": "join", "on": []}, {"how": "join", "on": ["id"], "kind": "outer"}):
        with pytest.raises(ValidationError):
            combine.validate_python(wrong)
