"""Proposals: sensible on real-looking samples, and never at odds with their own sample."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.datasets.expectations import Judge
from lightmill.datasets.hints import is_key, label_rank, personal_tag, words
from lightmill.datasets.infer import Proposal, propose
from lightmill.datasets.verdicts import check_nulls
from lightmill.errors import RequestError
from lightmill.records.quality import ColumnRule, RulesSpec
from lightmill.records.splitting import SPLIT_ADAPTER


def judged(proposal: Proposal, tables: dict[str, pa.Table]) -> None:
    """The proposal loads, is valid, and finds no breach in the sample."""
    spec = yaml.safe_load(proposal.text)
    assert spec == proposal.spec
    columns = [ColumnRule.model_validate(column) for column in spec["columns"]]
    SPLIT_ADAPTER.validate_python(spec["split"])
    judge = Judge(columns, RulesSpec.model_validate(spec["rules"]))
    tables = {
        file: table.drop_columns([n for n in table.column_names if n == "row_id"]) for file, table in tables.items()
    }
    for table in tables.values():
        found = judge.judge(table)
        assert found.tally.faults == {}, found.tally.faults
    whole = pa.concat_tables([judge.judge(table).table for table in tables.values()])
    found = judge.judge(whole)
    check_nulls(found.tally, judge.null_limits)
    assert all(not len(keys.later()) for keys in found.keys.values())


def proposed(columns: dict[str, Any], **more: Any) -> dict[str, dict[str, Any]]:
    tables = {"a.csv": pa.table(columns)}
    proposal = propose(tables, "d", **more)
    judged(proposal, tables)
    return {column["name"]: column for column in proposal.spec["columns"]}


def test_a_table_of_people_gets_a_sensible_specification() -> None:
    rows = 40
    found = proposed(
        {
            "id": [f"u{row}" for row in range(rows)],
            "patient_id": [row // 4 for row in range(rows)],
            "age": [str(20 + row) if row % 10 else "" for row in range(rows)],
            "income": np.linspace(1000, 5000, rows),
            "zip": [f"0{1000 + row}" for row in range(rows)],
            "email": [f"p{row}@example.org" for row in range(rows)],
            "city": ["Rome", "Oslo"] * 20,
            "story": ["a long text about somebody's day, and no two of them alike " + str(row) for row in range(rows)],
            "seen": ["2024-01-02"] * rows,
            "member": ["true", "false"] * 20,
            "target": ["yes", "no"] * 20,
        }
    )
    assert found["id"] == {"name": "id", "dtype": "string", "role": "key", "unique": True}
    assert found["patient_id"] == {"name": "patient_id", "dtype": "int64", "role": "key"}
    assert (found["age"]["dtype"], found["age"]["role"], found["age"]["max_nulls"]) == ("int64", "feature", 0.16)
    assert found["age"]["minimum"] <= 20 and found["age"]["maximum"] >= 59
    assert (found["income"]["minimum"], found["income"]["maximum"]) == (600, 5400)
    assert (found["zip"]["dtype"], found["zip"]["tags"]) == ("string", ["postcode"])
    assert found["email"] == {"name": "email", "dtype": "string", "role": "ignore", "tags": ["email"]}
    assert found["city"]["values"] == ["Oslo", "Rome"]
    assert (found["story"]["role"], found["story"]["max_length"]) == ("text", 130)
    assert found["seen"] == {"name": "seen", "dtype": "date", "role": "time"}
    assert (found["member"]["dtype"], found["member"]["role"]) == ("bool", "feature")
    assert found["target"] == {"name": "target", "dtype": "string", "role": "label", "values": ["no", "yes"]}


def test_the_text_has_reasons_and_no_personal_value() -> None:
    table = pa.table(
        {"user_id": [1, 1, 2, 2], "mail": ["secret@x.org"] * 4, "day": ["2024-01-01"] * 4, "n": [1, 2, 3, 4]}
    )
    text = propose({"a.csv": table}, "people", {"format": "csv", "path": "data/*.csv"}).text
    assert "secret" not in text
    assert "# no label was found: give role `label` to the column to predict." in text
    assert '# rows that share "user_id" may leak: consider split: {by: grouped, column: ...}.' in text
    assert '# rows have times in "day": consider split: {by: sequential, column: ...}.' in text
    assert "source: {format: csv, path: data/*.csv}" in text
    assert "by: random" in text


def test_numbered_columns_become_a_family() -> None:
    columns = {f"p{number:02}": [number, number + 1, None if number == 5 else 5] for number in range(12)}
    found = proposed({**columns, "digit": [0, 1, 0]})
    assert list(found) == ["p{00..11}", "digit"]
    assert (found["p{00..11}"]["minimum"], found["p{00..11}"]["max_nulls"]) == (0, 0.51)
    assert found["digit"]["values"] == [0, 1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "2", "+3"], {"dtype": "int64"}),
        (["007", "123"], {"dtype": "string"}),
        (["12345678901234567890"], {"dtype": "string"}),
        (["1.5", "NA", "2"], {"dtype": "float64"}),
        (["0", "1", "1"], {"dtype": "int64"}),
        (["2024-01-01T10:00:00Z", "2024-01-01"], {"dtype": "timestamp"}),
        (["", "NA"], {"dtype": "string"}),
        ([None, None], {"dtype": "string", "role": "ignore"}),
        ([math.inf, 1.0], {"dtype": "float64", "finite": False}),
        (pa.array([1, 2], pa.uint8()), {"dtype": "uint8", "minimum": 0}),
        (pa.array([1.5], pa.float16()), {"dtype": "float32"}),
        (pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), {"dtype": "tensor<float32>", "shape": [2]}),
        ([[1], [1, 2]], {"dtype": "list<int64>", "role": "ignore"}),
        ([b"\x89PNG\r\n\x1a\n"], {"dtype": "binary", "role": "image"}),
        ([datetime.datetime(2024, 1, 1)], {"dtype": "timestamp", "role": "time"}),
        (pa.array(["a", "b"]).dictionary_encode(), {"dtype": "string"}),
        (
            pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((1, 2, 3), np.uint8)),
            {"dtype": "tensor<uint8>", "shape": [2, 3]},
        ),
    ],
)
def test_dtypes(values: Any, expected: dict[str, Any]) -> None:
    found = proposed({"c": values})["c"]
    assert {key: found.get(key) for key in expected} == expected


def test_a_column_that_changes_type_between_files_gets_one_that_fits_both() -> None:
    tables = {"a": pa.table({"c": [1, 2], "d": [1, 2]}), "b": pa.table({"c": ["1.5", "x"], "d": ["3.5", ""]})}
    proposal = propose(tables, "d")
    judged(proposal, tables)
    assert [column["dtype"] for column in proposal.spec["columns"]] == ["string", "float64"]
    assert "the sample has int64 and string" in proposal.text


def test_what_cannot_be_declared_is_left_out_with_a_note() -> None:
    table = pa.table({"s": [{"a": 1}], "row_id": [1], "p{0..3}": [1], "n": [1], "new\nline": [1]})
    proposal = propose({"a": table, "b": table.drop_columns(["new\nline"])}, "d")
    assert [column["name"] for column in proposal.spec["columns"]] == ["n"]
    for hint in (
        '"s" is left out: its type',
        '"row_id" is left out',
        '"p{0..3}" is left out',
        '"new\\nline" is in 1 of 2 files',
    ):
        assert hint in proposal.text
    with pytest.raises(RequestError, match="has no column that can be declared"):
        propose({"a": pa.table({"s": [{"a": 1}]})}, "d")
    with pytest.raises(RequestError, match="no file has no column"):
        propose({}, "d")
    with pytest.raises(RequestError, match="a.csv has the column 'x' twice"):
        propose({"a.csv": pa.Table.from_arrays([pa.array([1])] * 2, names=["x", "x"])}, "d")


NAMES = st.one_of(
    st.sampled_from(
        ["id", "email", "y", "p01", "p02", "p03", "when", "row_id", "a: b", "# c", "null", "3", "- x", "{}"]
    ),
    st.text(max_size=6),
)
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["1", "2", "1.5", "nan", "inf", "1e400", "", "007", "2024-01-01", "true", "0", "yes", "NA", "=1", " 5 "]
    ),
)


def column(rows: int) -> st.SearchStrategy[pa.Array]:
    def of(values: st.SearchStrategy[Any], kind: pa.DataType | None = None) -> st.SearchStrategy[pa.Array]:
        lists = st.lists(st.one_of(st.none(), values), min_size=rows, max_size=rows)
        return lists.map(lambda items: pa.array(items, type=kind))

    times = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))
    return st.one_of(
        of(TEXTS, pa.string()),
        of(st.integers(-(2**63), 2**63 - 1), pa.int64()),
        of(st.integers(0, 2**64 - 1), pa.uint64()),
        of(st.integers(0, 3), pa.int8()),
        of(st.floats(), pa.float64()),
        of(st.floats(width=32), pa.float32()),
        of(st.booleans(), pa.bool_()),
        of(st.binary(max_size=4), pa.binary()),
        of(st.dates(datetime.date(1, 1, 1)), pa.date32()),
        of(times, pa.timestamp("us")),
        of(st.lists(st.floats(), max_size=3), pa.list_(pa.float64())),
        of(st.lists(st.integers(0, 9), min_size=2, max_size=2), pa.list_(pa.int16(), 2)),
        of(st.nothing(), pa.null()),
    )


@st.composite
def samples(draw: st.DrawFn) -> dict[str, pa.Table]:
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    out = {}
    for file in range(draw(st.integers(1, 2))):
        rows = draw(st.integers(0, 12))
        out[f"f{file}"] = pa.table([draw(column(rows)) for _ in names], names=names)
    return out


@pytest.mark.parametrize(
    "name", ["a\nb", "\x85", "\u2028", "\0", "\U0001f600", "'", '"', "a: {b}", " x ", "~", "\ufeff"]
)
def test_any_name_and_value_comes_back_from_the_text(name: str) -> None:
    tables = {name: pa.table({name: [1, 2, 3], "kind": [name, "other"] * 1 + [name]})}
    judged(propose(tables, "d"), tables)


@settings(deadline=None, max_examples=40)
@given(samples())
def test_a_proposal_finds_no_breach_in_its_own_sample(tables: dict[str, pa.Table]) -> None:
    try:
        proposal = propose(tables, "d")
    except RequestError as exc:
        assert "has no column that can be declared" in exc.message
        return
    judged(proposal, tables)


# -- hints --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("E-Mail", "email"),
        ("userEmail", "email"),
        ("first_name", "name"),
        ("Phone Number", "phone"),
        ("ip_address", "ip"),
        ("date_of_birth", "birth_date"),
        ("credit_card", "card"),
        ("IBAN", "iban"),
        ("age", None),
        ("shipping", None),
        ("", None),
    ],
)
def test_names_hint_at_personal_data(name: str, tag: str | None) -> None:
    assert personal_tag(name) == tag


def test_names_hint_at_keys_and_labels() -> None:
    assert is_key("patient_id") and is_key("UUID") and not is_key("idle") and not is_key("")
    assert label_rank("Label") == 0
    assert label_rank("age") is None
    assert words("userEmail_2") == ["user", "email", "2"]
