"""Scopes, expiry and rotation of keys, with a clock that the test moves."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.access import KeyChecker, mint_key, parse_key, rotate_key
from lightmill.errors import AuthenticationError
from lightmill.records.access import check_scope, may_predict
from lightmill.records.base import iso_of, seconds_of
from lightmill.records.keys import KeyState, KeySummary

RANDOM = Random(5)
NOON = seconds_of("2030-01-01T12:00:00Z")


class Wall:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_a_key_is_refused_from_its_expiry_on_also_when_it_is_remembered() -> None:
    wall = Wall()
    text, key = mint_key("ci", expires=iso_of(NOON + 10), random=RANDOM.randbytes)
    checker = KeyChecker([key], wall=wall)
    assert checker.check(None, text) == key
    wall.now += 9.999
    assert checker.check(None, text) == key
    wall.now = NOON + 10
    with pytest.raises(AuthenticationError, match=r"'ci' expired at 2030-01-01T12:00:10.000Z; mint another"):
        checker.check(None, text)


def test_both_secrets_are_good_during_an_overlap_and_the_new_one_after_it() -> None:
    wall = Wall()
    old, key = mint_key("ci", scopes=("predict:a",), random=RANDOM.randbytes)
    new, rotated = rotate_key(key, 60, now=wall.now, random=RANDOM.randbytes)
    assert parse_key(new) is not None and (rotated.id, rotated.scopes) == (key.id, key.scopes)
    checker = KeyChecker([rotated], wall=wall)
    assert checker.check(None, old) == checker.check(f"Bearer {new}", None) == rotated
    wall.now += 60
    assert checker.check(None, new) == rotated
    with pytest.raises(AuthenticationError, match=r"'ci' was rotated.*good until 2030-01-01T12:01:00.000Z") as caught:
        checker.check(None, old)
    assert old.rpartition("_")[2] not in caught.value.message


def test_without_an_overlap_the_old_secret_ends_at_once() -> None:
    old, key = mint_key("ci", random=RANDOM.randbytes)
    _, rotated = rotate_key(key, 0, now=NOON, random=RANDOM.randbytes)
    with pytest.raises(AuthenticationError, match="does not know"):
        KeyChecker([rotated], wall=Wall()).check(None, old)


def test_a_second_rotation_ends_the_oldest_secret() -> None:
    first, key = mint_key("ci", random=RANDOM.randbytes)
    second, rotated = rotate_key(key, 60, now=NOON, random=RANDOM.randbytes)
    third, again = rotate_key(rotated, 60, now=NOON, random=RANDOM.randbytes)
    checker = KeyChecker([again], wall=Wall())
    assert checker.check(None, second) == checker.check(None, third) == again
    with pytest.raises(AuthenticationError, match="does not know"):
        checker.check(None, first)


def test_a_rotated_key_that_is_revoked_opens_with_neither_secret() -> None:
    old, key = mint_key("ci", random=RANDOM.randbytes)
    new, rotated = rotate_key(key, 60, now=NOON, random=RANDOM.randbytes)
    checker = KeyChecker([rotated.model_copy(update={"revoked": "2030-01-01"})], wall=Wall())
    for text in (old, new):
        with pytest.raises(AuthenticationError, match="was revoked"):
            checker.check(None, text)


def test_no_record_and_no_summary_holds_a_secret() -> None:
    text, key = mint_key("ci", random=RANDOM.randbytes)
    _, rotated = rotate_key(key, 60, now=NOON)
    secret = text.rpartition("_")[2]
    assert secret not in rotated.model_dump_json()
    shown = KeySummary.of(rotated, iso_of(NOON)).model_dump_json()
    assert secret not in shown and rotated.secret_sha256 not in shown and key.secret_sha256 not in shown
    assert rotated.prefix == text[:11]


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, KeyState.ACTIVE),
        ({"expires": iso_of(NOON)}, KeyState.EXPIRED),
        ({"expires": iso_of(NOON + 1)}, KeyState.ACTIVE),
        ({"old_until": iso_of(NOON + 1)}, KeyState.ROTATING),
        ({"old_until": iso_of(NOON)}, KeyState.ACTIVE),
        ({"expires": iso_of(NOON), "revoked": "then"}, KeyState.REVOKED),
    ],
)
def test_a_summary_says_in_which_state_a_key_is(fields: dict[str, str], state: KeyState) -> None:
    _, key = mint_key("ci")
    assert KeySummary.of(key.model_copy(update=fields), iso_of(NOON)).state == state


@settings(deadline=None)
@given(st.text(max_size=40))
def test_a_scope_lets_in_nowhere_else(text: str) -> None:
    try:
        scope = check_scope(text)
    except ValueError as exc:
        assert "write admin, metrics, predict:*" in str(exc)
        return
    assert scope == text
    assert may_predict((text,), "digits") == (text in ("admin", "predict:*", "predict:digits"))


@pytest.mark.parametrize(
    "wrong", ["predict", "predict:", "predict:A", "Admin", "admin ", "predict:a/b", "predict:**", ""]
)
def test_other_words_are_no_scopes(wrong: str) -> None:
    with pytest.raises(ValueError, match="is no scope"):
        check_scope(wrong)
