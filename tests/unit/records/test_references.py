from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import RequestError
from lightmill.records.references import ALIAS_PATTERN, NAME_PATTERN, check_name, parse_reference


@pytest.mark.parametrize(
    ("text", "name", "selector", "seq"),
    [
        ("digits", "digits", "latest", None),
        ("digits@3", "digits", "3", 3),
        ("digits@latest", "digits", "latest", None),
        ("a.b-c_d9@champion-2", "a.b-c_d9", "champion-2", None),
        ("0@1", "0", "1", 1),
    ],
)
def test_a_reference_is_read(text: str, name: str, selector: str, seq: int | None) -> None:
    found = parse_reference(text)
    assert (found.name, found.selector, found.seq) == (name, selector, seq)
    assert str(found) == f"{name}@{selector}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@1",
        "a@",
        "a@0",
        "a@-1",
        "a@1.0",
        "A",
        "a b",
        "a/b",
        "../a",
        "a@B",
        "a@b@c",
        "a@é",
        "a" * 65,
        "a\n",
        "a@1\n",
    ],
)
def test_a_malformed_reference_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_reference(text)
    assert repr(text.partition("@")[0])[1:-1] in caught.value.message


def test_a_number_in_other_digits_is_refused() -> None:
    for digits in ("²", "٣", "１"):
        with pytest.raises(RequestError):
            parse_reference(f"a@{digits}")


@given(
    st.from_regex(NAME_PATTERN, fullmatch=True),
    st.from_regex(ALIAS_PATTERN, fullmatch=True) | st.integers(1, 10**9).map(str),
)
def test_every_name_with_every_selector_is_read_back(name: str, selector: str) -> None:
    found = parse_reference(f"{name}@{selector}")
    assert parse_reference(str(found)) == found
    assert (found.name, found.selector) == (name, selector)


@given(st.text(max_size=10))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    if NAME_PATTERN.fullmatch(text):
        assert check_name(text, "asset") == text
    else:
        with pytest.raises(RequestError, match="asset"):
            check_name(text, "asset")
