"""Identifiers inside JSON: strings, keys, numbers, escapes, JSON in JSON; the rest keeps its every byte."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.masking import Masker
from tests.unit.masking.examples import REDACT_ALL

MASKER = Masker(REDACT_ALL)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [
    ('{"mail": "a@b.de", "n": 1.50}', '{"mail": "[email]", "n": 1.50}'),
    ('{"mail":"a\\u0040b.de"}', '{"mail":"[email]"}'),
    ('{"a@b.de": [1, 2]}', '{"[email]": [1, 2]}'),
    ('{"ssn": 123456789, "n": 123456789}', '{"ssn": "[us_ssn]", "n": 123456789}'),
    ('{"ssn": {"value": 123456789}, "n": [123456789, {"m": {"value": 123456789}}]}',
     '{"ssn": {"value": "[us_ssn]"}, "n": [123456789, {"m": {"value": 123456789}}]}'),
    ('{"customerSsn": "123456789"}', '{"customerSsn": "[us_ssn]"}'),
    ('{"card": 4111111111111111}', '{"card": "[card]"}'),
    ('{"password": "x", "pass": 1}', '{"password": "[api_key]", "pass": 1}'),
    ('{"apiKey": 12345}', '{"apiKey": "[api_key]"}'),
    ('["a@b.de", "plain", null, true]', '["[email]", "plain", null, true]'),
    ('"a@b.de"', '"[email]"'),
    (json.dumps({"in": json.dumps({"in": json.dumps({"mail": "a@b.de"})})}),
     json.dumps({"in": json.dumps({"in": json.dumps({"mail": "[email]"})})})),
    ('{"a": "x"}\n{"mail": "a@b.de"}', '{"a": "x"}\n{"mail": "[email]"}'),
    ('{"mail": "a@b.de", "cut', '{"mail": "[email]", "cut'),
    ('level=info body="{\\"mail\\": \\"a\\u0040b.de\\"}"', 'level=info body="{\\"mail\\": \\"[email]\\"}"'),
    ('C:\\temp\\new "C:\\users" a@b.de', 'C:\\temp\\new "C:\\users" [email]'),
    ('{"url": "https:\\/\\/u:p@host\\/x"}', '{"url": "https://[url_credentials]@host/x"}'),
])  # fmt: skip
def test_json(text: str, expected: str) -> None:
    assert MASKER.text(text) == expected
    assert MASKER.text(expected) == expected


@settings(max_examples=100, deadline=None, derandomize=True)
@given(VALUES, st.booleans(), st.sampled_from([None, 2]))
def test_masked_json_is_json_without_the_identifier(value: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps({"first": value, "mail": ["jane.roe@example.com", value]}, ensure_ascii=ascii_only, indent=indent)
    masked = json.loads(MASKER.text(text))
    assert "jane.roe" not in json.dumps(masked)
    assert masked["mail"][0] == "[email]"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(VALUES, st.sampled_from([None, 1]))
def test_json_without_identifiers_keeps_its_every_byte(value: object, indent: int | None) -> None:
    text = json.dumps({"value": value}, indent=indent)
    masked = MASKER.text(text)
    assert json.loads(masked) is not None
    if "[" not in masked.replace(text, ""):
        assert masked == text


def test_deep_json_ends() -> None:
    text = '{"a":' * 500 + '"a@b.de"' + "}" * 500
    assert "a@b.de" not in MASKER.text(text)
    assert "a@b.de" not in MASKER.text("[" * 100_000 + '"a@b.de"')
    nested = '"a@b.de"'
    for _ in range(10):
        nested = json.dumps(nested)
        if len(nested) > 100_000:
            break
    assert "a@b.de" not in MASKER.text(nested)


def test_lone_surrogates_survive() -> None:
    assert MASKER.text('{"x": "\\ud800 a@b.de"}') == '{"x": "\\ud800 [email]"}'
