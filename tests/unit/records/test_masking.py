"""Masking policies from YAML: what is wrong is named with its key and the remedy; reports add up."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lightmill.errors import RequestError
from lightmill.records.masking import MaskedCount, MaskingPolicy, MaskingReport, parse_masking_policy

KEYS = ["name", "rules", "action", "columns", "detectors", "epsilon", "x"]
FULL = """
name: staff
version: 3
rules:
  - {columns: [url], action: keep}
  - {tags: [secret], action: drop}
  - {columns: [mail], tags: [email], action: pseudonym, domain: person, length: 20}
  - {columns: [card], action: token, luhn: true}
  - {columns: [phone], action: partial, keep_last: 2, keep_first: 1, keep_domain: false}
  - {columns: [age], action: generalize, width: 10}
  - {columns: [income], action: generalize, edges: [0, 1000, 5000]}
  - {tags: [date_of_birth], action: generalize, date: year}
  - {detectors: [ipv4, ipv6], action: generalize, network: 24, ipv6_bits: 48}
  - {columns: [postcode], action: generalize, characters: 3}
  - {columns: [salary], action: noise, epsilon: 1.0, minimum: 0, maximum: 10000}
  - {detectors: [all], action: redact, bare: true}
"""


def test_a_policy_with_every_action_is_read_and_comes_back() -> None:
    policy = parse_masking_policy(yaml.safe_load(FULL), "dataset.yaml: masking")
    assert [rule.action for rule in policy.rules][:4] == ["keep", "drop", "pseudonym", "token"]
    assert policy.keyed() and policy.version == 3
    assert MaskingPolicy.model_validate_json(policy.model_dump_json()) == policy


def rules(*found: dict[str, object]) -> dict[str, object]:
    return {"name": "staff", "rules": list(found)}


@pytest.mark.parametrize(("value", "said"), [
    ([], "m must hold keys and values, but holds list"),
    ({"name": "staff"}, "key 'rules' is missing"),
    ({"name": "staff", "rules": []}, "rules: Tuple should have at least 1 item"),
    ({"name": "Staff!", "rules": [{"columns": ["a"], "action": "drop"}]}, "'Staff!' is not a valid name"),
    ({**rules({"columns": ["a"], "action": "drop"}), "verison": 2}, "'verison' (known keys: name, rules, version)"),
    (rules({"columns": ["a"], "action": "hide"}), "rules.0.action: 'hide' is no action (use one of: keep, drop"),
    (rules({"columns": ["a"]}), "rules.0.action: None is no action"),
    (rules("drop"), "rules.0"),
    (rules({"action": "drop"}), "rules.0: the rule selects nothing; give it columns, tags or detectors"),
    (rules({"columns": ["a"], "action": "partial", "keep": 3}), "unknown key 'rules.0.keep' (known keys: action, bare"),
    (rules({"columns": ["a"], "action": "partial", "keep_last": -1}), "rules.0.keep_last: Input should be greater"),
    (rules({"columns": ["a"], "action": "noise"}), "key 'rules.0.epsilon' is missing"),
    (rules({"columns": ["a"], "action": "noise", "epsilon": 1}), "give sensitivity, or minimum and maximum"),
    (rules({"columns": ["a"], "action": "noise", "epsilon": 0, "sensitivity": 1}), "rules.0.epsilon: Input should be"),
    (rules({"columns": ["a"], "action": "noise", "epsilon": 1, "minimum": 1}), "minimum and maximum belong together"),
    (rules({"columns": ["a"], "action": "noise", "epsilon": 1, "minimum": 1, "maximum": 1}), "1 is not less than"),
    (rules({"detectors": ["email"], "action": "noise", "epsilon": 1, "sensitivity": 1}), "take out detectors"),
    (rules({"detectors": ["email"], "action": "drop"}), "this action treats whole columns; take out detectors"),
    (rules({"columns": ["a"], "bare": True, "action": "redact"}), "bare belongs to detectors"),
    (rules({"columns": ["a"], "action": "generalize"}), "give exactly one of width, edges, date, network, characters"),
    (rules({"columns": ["a"], "action": "generalize", "width": 1, "date": "year"}), "found ['width', 'date']"),
    (rules({"columns": ["a"], "action": "generalize", "edges": [2, 1]}), "edges [2.0, 1.0] must rise"),
    (rules({"detectors": ["phone"], "action": "generalize", "width": 1}), "width treats whole columns"),
    (rules({"columns": ["a"], "action": "generalize", "date": "year", "lower_bound": True}), "lower_bound belongs"),
    (rules({"columns": ["a"], "action": "generalize", "date": "year", "ipv6_bits": 40}), "ipv6_bits belongs"),
    (rules({"columns": ["a"], "action": "generalize", "date": "week"}), "rules.0.date: Input should be 'month'"),
    (rules({"columns": ["a"], "action": "generalize", "width": float("inf")}), "rules.0.width"),
    (rules({"columns": ["a"], "action": "pseudonym", "length": 8}), "rules.0.length: Input should be greater"),
    (rules({"columns": "mail", "action": "redact"}), "rules.0.columns: Input should be a valid tuple (given 'mail')"),
])  # fmt: skip
def test_what_is_wrong_is_named(value: object, said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said)):
        parse_masking_policy(value, "m")


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(["redact", "email", "noise"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=10,
))  # fmt: skip
def test_any_value_is_a_policy_or_one_request_error(value: object) -> None:
    try:
        assert parse_masking_policy(value, "m").rules
    except RequestError as exc:
        assert exc.message.startswith(("m ", "masking policy "))


def report(values: int, *, fingerprint: str = "f" * 64, column: str = "mail", rows: int = 1) -> MaskingReport:
    count = MaskedCount(column=column, detector="email", action="redact", values=values)
    epsilon = {"age": 0.5}
    return MaskingReport(policy="p", version=1, fingerprint=fingerprint, rows=rows, counts=(count,), epsilon=epsilon)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc")), min_size=1, max_size=6), st.randoms())
def test_reports_add_up_in_any_order(found: list[tuple[int, str]], rng: object) -> None:
    reports = [report(values, column=column) for values, column in found]
    forward = reports[0]
    for one in reports[1:]:
        forward += one
    rng.shuffle(reports)  # pyright: ignore[reportAttributeAccessIssue]
    backward = reports[0]
    for one in reports[1:]:
        backward = one + backward
    assert forward == backward and forward.rows == len(found)
    assert sum(count.values for count in forward.counts) == sum(values for values, _ in found)
    assert forward.epsilon_per_row() == 0.5
    assert MaskingReport.model_validate(json.loads(forward.model_dump_json())) == forward


def test_reports_of_different_policies_do_not_add_up() -> None:
    with pytest.raises(RequestError, match="mask all blocks by one policy and key"):
        report(1) + report(1, fingerprint="e" * 64)


def test_records_are_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        report(1).rows = 2  # pyright: ignore[reportAttributeAccessIssue]
