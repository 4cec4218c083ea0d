from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import IntegrityError, RequestError
from lightmill.vault import canonical_json, decode_base64, encode_base64, parse_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(st.dictionaries(TEXT, VALUES))
def test_what_is_written_is_read_and_written_the_same(value: dict[str, object]) -> None:
    data = canonical_json(value)
    assert parse_json(data, len(data)) == value
    assert canonical_json(parse_json(data, len(data))) == data


def test_the_form_is_sorted_dense_and_unescaped() -> None:
    assert canonical_json({"b": [1, None, True], "a": "ü\n"}) == '{"a":"ü\\n","b":[1,null,true]}'.encode()


@pytest.mark.parametrize("value", [math.nan, math.inf, b"bytes", object(), "\ud800", {1: 1, "a": 2}, {"x": {1}}])
def test_what_has_no_form_is_the_callers_fault(value: object) -> None:
    with pytest.raises(RequestError, match="canonical"):
        canonical_json(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b'{"a":1,"a":1}',
        b'{"x":{"a":1,"a":2}}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"\\udfff":1}',
        b'{"a":"\xff"}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1}x',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' + b"9" * 10_000 + b"}",
    ],
)
def test_odd_documents_are_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="m/ab is"):
        parse_json(data, 1 << 20, name="m/ab")


@given(st.binary(max_size=200))
def test_noise_is_refused_or_read(data: bytes) -> None:
    with contextlib.suppress(IntegrityError):
        assert isinstance(parse_json(data, 1000), dict)


def test_a_large_document_is_not_even_parsed() -> None:
    with pytest.raises(IntegrityError, match="limit of 10"):
        parse_json(b'{"a":"12345"}', 10)


@given(st.binary(max_size=100))
def test_base64_has_one_spelling(data: bytes) -> None:
    assert decode_base64(encode_base64(data)) == data


@pytest.mark.parametrize("text", ["A", "AA", "AA=", "AB==", "AAA\n", " AAA=", "AA-_", "AAA=AAA=", "ü"])
def test_other_spellings_of_base64_are_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="base64"):
        decode_base64(text)
