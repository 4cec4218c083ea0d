from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.serving.headers import SECURITY_HEADERS, Cors, RequestIds, retry_after


def test_a_well_formed_request_id_is_kept_and_others_are_replaced() -> None:
    ids = RequestIds(b"ab")
    assert ids.name(b"order-7:retry.2_x") == b"order-7:retry.2_x"
    assert [ids.name(None), ids.name(b""), ids.name(b"a b"), ids.name(b"x" * 129)] == [
        b"ab-1",
        b"ab-2",
        b"ab-3",
        b"ab-4",
    ]
    assert ids.name(b"x" * 128) == b"x" * 128


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_id_can_end_a_header_or_a_line(given: bytes) -> None:
    assert not set(RequestIds().name(given)) & set(b'\r\n\0 "\\')


def test_ids_of_two_processes_differ() -> None:
    assert RequestIds().name(None) != RequestIds().name(None)


@pytest.mark.parametrize(("seconds", "shown"), [(0.0, b"1"), (0.2, b"1"), (1.0, b"1"), (1.01, b"2"), (90, b"90")])
def test_retry_after_is_whole_seconds_and_never_none(seconds: float, shown: bytes) -> None:
    assert retry_after(seconds) == (b"retry-after", shown)


def test_security_headers_are_raw_pairs_in_lower_case() -> None:
    assert all(name == name.lower() and isinstance(value, bytes) for name, value in SECURITY_HEADERS)
    assert dict(SECURITY_HEADERS)[b"x-content-type-options"] == b"nosniff"


def test_no_page_of_another_origin_reads_anything_unless_it_is_named() -> None:
    assert not Cors(())
    assert Cors(()).answer(b"https://shop.example") == () == Cors(()).preflight(b"https://shop.example")
    cors = Cors(("https://shop.example",))
    assert dict(cors.answer(b"https://shop.example"))[b"access-control-allow-origin"] == b"https://shop.example"
    for other in (None, b"https://evil.example", b"null", b"https://shop.example.evil", b"http://shop.example"):
        assert cors.answer(other) == () == cors.preflight(other)
    assert dict(cors.preflight(b"https://shop.example"))[b"access-control-allow-methods"] == b"GET, POST, OPTIONS"


def test_any_origin_is_answered_without_credentials() -> None:
    headers = dict(Cors(("*",)).preflight(b"https://anywhere.example"))
    assert headers[b"access-control-allow-origin"] == b"*"
    assert b"access-control-allow-credentials" not in headers
