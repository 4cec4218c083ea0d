"""What a dataset specification refuses, before anything is read."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from lightmill.errors import RequestError
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.specs import parse_spec

SPEC: dict[str, Any] = {
    "name": "people",
    "source": {"path": "people.csv"},
    "columns": [
        {"name": "age", "dtype": "float64"},
        {"name": "land", "dtype": "string", "role": "ignore"},
        {"name": "buys", "dtype": "int64", "role": "label", "values": [0, 1]},
    ],
}


def test_steps_without_columns_take_the_features_and_labels_may_be_called_label() -> None:
    spec = copy.deepcopy(SPEC)
    spec["prepare"] = [{"step": "standardize"}]
    spec["columns"][2]["name"] = "label"
    found = parse_spec(DatasetSpec, spec, "here")
    assert found.prepare[0].columns == ("age",) and found.plain  # type: ignore[union-attr]
    assert (found.classes(), found.kept_columns()) == (("0", "1"), ("age",))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"columns": [{"name": "a;b", "dtype": "int64"}]}, "encrypted Parquet"),
        (
            {"columns": [{"name": "y", "dtype": "float64", "role": "label", "values": [0.0, 1.0]}]},
            "classes are integers",
        ),
        ({"columns": [{"name": "y", "dtype": "int64", "role": "label", "values": ["01"]}]}, "'01'"),
        ({"columns": [{"name": "y", "dtype": "string", "role": "label"}]}, "list the classes"),
        (
            {"columns": [{"name": "y", "dtype": "string", "role": "label", "values": ["a"], "max_nulls": 0.1}]},
            "max_nulls",
        ),
        ({"sources": [{"path": "b.csv"}]}, "`sources` for several"),
        ({"combine": {"how": "join", "on": ["id"], "many": True}}, "many"),
        ({"split": {"by": "grouped", "column": "family"}}, "'family'"),
        (
            {
                "prepare": [
                    {
                        "step": "python",
                        "function": "a:b",
                        "columns": ["age"],
                        "makes": [{"name": "label", "dtype": "int64"}],
                    }
                ]
            },
            "reserved",
        ),
        ({"prepare": [{"step": "derive", "column": "label", "value": "age + 1"}]}, "reserved"),
        ({"features": {"shape": [2]}}, "2 values"),
    ],
)
def test_what_would_go_wrong_later_is_refused_at_once(change: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestError, match=named):
        parse_spec(DatasetSpec, SPEC | change, "here")


def spec(**more: Any) -> DatasetSpec:
    return parse_spec(DatasetSpec, {**copy.deepcopy(SPEC), **more}, "here")


def test_masking_is_written_out_or_named_and_a_name_is_never_taken_for_none() -> None:
    policy = {"name": "staff", "rules": [{"detectors": ["all"], "action": "redact"}]}
    written = spec(masking=policy)
    assert written.policy is not None and written.policy.name == "staff"
    named = spec(masking="staff@2")
    assert named.masking == "staff@2" and spec(masking="staff").masking == "staff@latest"
    with pytest.raises(RequestError, match="'staff@2' is kept by a platform"):
        _ = named.policy
    settled = named.with_policy(lambda _: written.policy)  # pyright: ignore
    assert settled.policy == written.policy
    assert spec().with_policy(lambda _: written.policy).policy is None  # pyright: ignore
    assert DatasetSpec.model_validate_json(named.model_dump_json()) == named
    with pytest.raises(RequestError, match=r"masking\.rules\.0.*hide"):
        spec(masking={"name": "staff", "rules": [{"columns": ["a"], "action": "hide"}]})
    with pytest.raises(RequestError, match="number, or 'latest'"):
        spec(masking="staff@champion")
