from __future__ import annotations

import pickle
from random import Random

import pytest

from lightmill.access import KeyChecker, hash_secret, mint_key, parse_key
from lightmill.access.keys import MAX_CACHED
from lightmill.errors import AuthenticationError
from lightmill.records.endpoints import ApiKey

RANDOM = Random(7)
TEXT, KEY = mint_key("ci", random=RANDOM.randbytes)
OTHER_TEXT, OTHER = mint_key("laptop", role="reader", random=RANDOM.randbytes)
REVOKED_TEXT, REVOKED = mint_key("old", random=RANDOM.randbytes)
REVOKED = REVOKED.model_copy(update={"revoked": "2025-01-01T00:00:00.000Z"})


@pytest.fixture
def checker() -> KeyChecker:
    return KeyChecker([KEY, OTHER, REVOKED])


def test_a_minted_key_has_its_form_and_its_record_not_its_secret() -> None:
    parsed = parse_key(TEXT)
    assert parsed is not None
    id, secret = parsed
    assert f"lm_{id}_{secret}" == TEXT
    assert (len(id), len(secret)) == (8, 43)
    assert (KEY.id, KEY.name, KEY.role, KEY.revoked) == (id, "ci", "admin", None)
    assert KEY.secret_sha256 == hash_secret(secret)
    assert secret not in KEY.model_dump_json()
    assert OTHER.role == "reader"


def test_randomness_is_a_port() -> None:
    text, key = mint_key("fixed", random=lambda size: bytes(range(size)))
    assert text == "lm_00010203_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    assert key.secret_sha256 == hash_secret("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
    assert hash_secret("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180


def test_minted_keys_differ() -> None:
    assert len({mint_key("x")[0] for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "text",
    [
        "", "lm", "lm_", TEXT + "A", TEXT[:-1], TEXT.upper(), TEXT + "\n", " " + TEXT,
        TEXT.replace("lm_", "sk_"),
        "lm_00000000_" + "ü" * 43, "lm_" + "٣" * 8 + "_" + "a" * 43, "lm_00000000_" + "+" * 43,
    ],
)  # fmt: skip
def test_other_texts_are_no_keys(text: str) -> None:
    assert parse_key(text) is None


@pytest.mark.parametrize("repeat", [1, 2], ids=["first", "cached"])
def test_both_headers_are_accepted(checker: KeyChecker, repeat: int) -> None:
    for _ in range(repeat):
        assert checker.check(f"Bearer {TEXT}", None) == KEY
        assert checker.check(f"bearer  {TEXT} ", None) == KEY
        assert checker.check(None, OTHER_TEXT) == OTHER
        assert checker.check(f"Bearer {TEXT}", OTHER_TEXT) == KEY
        assert checker.check("Basic dTpw", OTHER_TEXT) == OTHER
        assert checker.check_headers([(b"host", b"h"), (b"authorization", b"Bearer " + TEXT.encode())]) == KEY
        assert checker.check_headers(iter([(b"x-api-key", OTHER_TEXT.encode()), (b"x-api-key", b"no")])) == OTHER


def tampered(text: str) -> str:
    return text[:20] + ("A" if text[20] != "A" else "B") + text[21:]


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "message"),
    [
        (None, None, "needs an API key"),
        ("", None, "no Bearer key"),
        ("Basic dTpw", None, "no Bearer key"),
        (TEXT, None, "no Bearer key"),
        ("Bearer", None, "malformed"),
        ("Bearer ", None, "malformed"),
        (f"Bearer {TEXT}x", None, "malformed"),
        ("Bearer lm_ü\ud800", None, "malformed"),
        (None, "", "malformed"),
        (None, f"Bearer {TEXT}", "malformed"),
        (f"Bearer {tampered(TEXT)}", None, "does not know"),
        (f"Bearer {tampered(TEXT)}", OTHER_TEXT, "does not know"),
        (None, TEXT[:12] + OTHER_TEXT[12:], "does not know"),
        (None, mint_key("stranger", random=RANDOM.randbytes)[0], "does not know"),
        (None, REVOKED_TEXT, "'old' was revoked at 2025"),
        (None, tampered(REVOKED_TEXT), "does not know"),
    ],
)
def test_all_else_is_refused_again_and_again(
    checker: KeyChecker, authorization: str | None, x_api_key: str | None, message: str
) -> None:
    checker.check(f"Bearer {TEXT}", None)
    checker.check(None, TEXT)
    for _ in range(2):
        with pytest.raises(AuthenticationError, match=message) as caught:
            checker.check(authorization, x_api_key)
        for sent in (authorization, x_api_key):
            for part in (sent or "").split():
                assert part in ("Bearer", "Basic") or part not in str(caught.value)
        assert "_" + TEXT[12:20] not in str(caught.value)


def test_without_keys_nobody_enters() -> None:
    with pytest.raises(AuthenticationError):
        KeyChecker([]).check(None, TEXT)


def test_a_record_with_an_empty_digest_opens_to_nobody() -> None:
    broken = ApiKey(id=KEY.id, name="broken", secret_sha256="")
    with pytest.raises(AuthenticationError):
        KeyChecker([broken]).check(None, TEXT)


def test_the_cache_is_bounded_and_keeps_only_what_was_accepted(checker: KeyChecker) -> None:
    for blanks in range(2 * MAX_CACHED + 10):
        assert checker.check("Bearer " + " " * blanks + TEXT, None) == KEY
        with pytest.raises(AuthenticationError):
            checker.check(None, " " * blanks + tampered(TEXT))
    assert 0 < len(checker._bearers) <= MAX_CACHED
    assert len(checker._plain) == 0


def test_a_checker_can_be_sent_to_a_replica(checker: KeyChecker) -> None:
    assert pickle.loads(pickle.dumps(checker)).check(None, TEXT) == KEY
