"""Tokens of an issuer: what is believed, and the attacks that must not be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lightmill.access import Identifier
from lightmill.access.tokens import TOKEN_MAX_BYTES, TokenChecker, read_keys, scopes_of
from lightmill.errors import AuthenticationError, RequestError
from lightmill.records.access import IssuersSpec, JwtIssuer, TrustedIssuer
from tests.unit.access import issuing
from tests.unit.access.issuing import CLAIMS, ISSUER, NOW, encoded, jwk, private, token, trusted, unsigned

CHECKER = TokenChecker([trusted()], wall=lambda: NOW)


def refused(sent: bytes, checker: TokenChecker = CHECKER) -> str:
    with pytest.raises(AuthenticationError) as caught:
        checker.check(sent)
    parts = [part for part in sent.split(b".") if len(part) > 8]
    assert not [part for part in parts if part[:12].decode("ascii", "replace") in caught.value.message]
    return caught.value.message


@pytest.mark.parametrize("name", ["rsa", "ec", "ed"])
def test_a_token_of_a_trusted_issuer_says_who_asks_and_what_it_may(name: str) -> None:
    found = CHECKER.check(token(name))
    assert (found.issuer, found.subject, found.scopes) == (ISSUER.issuer, "ada", ("predict:digits",))
    assert found.until == NOW + 600 + ISSUER.leeway_s


@pytest.mark.parametrize(
    ("claim", "scopes"),
    [
        ("predict:a predict:*", ("predict:*", "predict:a")),
        (["predict:a", "ml-admin", 3, None, {}], ("admin", "predict:a")),
        ("admin metrics", ()),  # other systems call so what is nothing here: only the map gives them
        (None, ()),
        (7, ()),
        ({"predict:*": 1}, ()),
    ],
)
def test_scopes_come_from_the_claim_and_great_ones_from_the_map_alone(claim: object, scopes: tuple[str, ...]) -> None:
    assert scopes_of(claim, ISSUER) == scopes
    assert CHECKER.check(token(scope=claim)).scopes == scopes


# -- attacks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [{}, {"alg": "None"}, {"alg": "NONE", "kid": "rsa"}, {"alg": ""}, {"alg": None}])
def test_a_token_that_nobody_signed_is_refused(header: dict[str, Any]) -> None:
    assert "must be signed by one of RS256, ES256, EdDSA" in refused(unsigned(**header))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", "hs256"])
def test_the_public_key_is_no_shared_secret(algorithm: str) -> None:
    assert "must be signed by one of" in refused(issuing.signed_with_the_public_key(algorithm))


def test_a_signature_of_another_key_is_refused_under_the_name_of_a_known_one() -> None:
    assert "signature" in refused(token("rsa-other", headers={"kid": "rsa"}))


@pytest.mark.parametrize("kid", ["nobody", "", "../../etc/passwd", "' or 1=1"])
def test_a_key_that_the_issuer_does_not_publish_is_refused(kid: str) -> None:
    assert "does not publish" in refused(token("rsa-other", headers={"kid": kid}))


def test_a_key_in_the_token_is_not_looked_at() -> None:
    own = jwk("rsa-other")
    sent = token("rsa-other", headers={"kid": "rsa", "jwk": own, "jku": "https://evil.example", "x5u": "https://evil"})
    assert "signature" in refused(sent)


def test_an_algorithm_of_another_kind_of_key_is_refused() -> None:
    assert "does not publish" in refused(token("ec", headers={"kid": "rsa"}))


@pytest.mark.parametrize("fields", [{"crit": ["exp"]}, {"b64": False}, {"typ": "secevent+jwt"}])
def test_extensions_of_the_header_are_refused(fields: dict[str, Any]) -> None:
    header = {"alg": "ES256", "kid": "ec", **fields}
    assert "extensions" in refused(b".".join((encoded(header), encoded(CLAIMS), encoded(b"x" * 64))))


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"exp": NOW - 31}, "has expired"),
        ({"exp": NOW - 30}, "has expired"),
        ({"without": ("exp",)}, "has no expiry"),
        ({"nbf": NOW + 31}, "not good yet (claim 'nbf')"),
        ({"iat": NOW + 31}, "not good yet (claim 'iat')"),
        ({"aud": "another"}, "another audience"),
        ({"aud": ["another", "lightmill2"]}, "another audience"),
        ({"aud": []}, "another audience"),
        ({"without": ("aud",)}, "another audience"),
        ({"without": ("sub",)}, "name its subject"),
        ({"sub": ""}, "name its subject"),
        ({"sub": "x" * 201}, "name its subject"),
        ({"iss": "https://evil.example"}, "does not trust the issuer"),
        ({"iss": ISSUER.issuer + "/"}, "does not trust the issuer"),
        ({"without": ("iss",)}, "does not trust the issuer"),
    ],
)
def test_wrong_claims_are_refused_by_name(claims: dict[str, Any], message: str) -> None:
    assert message in refused(token(**claims))


@pytest.mark.parametrize("value", [True, "tomorrow", [], {}])
@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
def test_what_is_no_time_is_refused(claim: str, value: object) -> None:
    content = encoded({"alg": "ES256", "kid": "ec"}) + b"." + encoded({**CLAIMS, claim: value})
    signed = content + b"." + encoded(_sign(content))
    assert f"claim '{claim}' is no time" in refused(signed)


def _sign(content: bytes) -> bytes:
    from jwt.algorithms import ECAlgorithm

    return ECAlgorithm(ECAlgorithm.SHA256).sign(content, private("ec"))


def test_clocks_may_differ_by_the_leeway() -> None:
    assert CHECKER.check(token(exp=NOW - 29.5)).subject == "ada"
    assert CHECKER.check(token(nbf=NOW + 29.5, iat=NOW + 29.5)).subject == "ada"


def test_a_token_of_one_issuer_is_not_believed_as_another_s() -> None:
    other = ISSUER.model_copy(update={"issuer": "https://other.example"})
    checker = TokenChecker([trusted("ec"), trusted("rsa-other", issuer=other)], wall=lambda: NOW)
    assert checker.check(token("rsa-other", iss=other.issuer)).issuer == other.issuer
    assert "does not publish" in refused(token("ec", iss=other.issuer), checker)


def test_a_long_token_is_refused_before_it_is_read() -> None:
    assert f"longer than {TOKEN_MAX_BYTES}" in refused(token(sub="x" * TOKEN_MAX_BYTES))


def test_without_issuers_a_token_is_told_what_to_do() -> None:
    with pytest.raises(AuthenticationError, match="LIGHTMILL_JWT_ISSUERS"):
        Identifier(()).identify(b"Bearer " + token(), None)


GOOD = token("ec")


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(GOOD) - 1), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_token_is_believed_as_something_else(place: int, bit: int) -> None:
    sent = bytearray(GOOD)
    sent[place] ^= 1 << bit
    try:
        found = CHECKER.check(bytes(sent)) if sent.count(b".") == 2 else None
    except AuthenticationError:
        return
    # base64 has spare bits at the end of a part, so that two texts may be the same bytes
    assert found is None or (found.subject, found.scopes) == ("ada", ("predict:digits",))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=3, max_size=3))
def test_noise_is_refused_and_never_fails_otherwise(parts: list[bytes]) -> None:
    refused(b".".join(encoded(part) for part in parts))


@settings(max_examples=200, deadline=None)
@given(
    header=st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit"]), st.none() | st.text(max_size=9) | st.integers()
    ),
    claims=st.dictionaries(
        st.sampled_from(["iss", "aud", "exp", "sub"]), st.none() | st.text(max_size=9) | st.integers()
    ),
)
def test_what_is_not_signed_is_refused_whatever_it_says(header: dict[str, Any], claims: dict[str, Any]) -> None:
    refused(
        b".".join((encoded({"alg": "ES256", "kid": "ec", **header}), encoded({**CLAIMS, **claims}), encoded(b"z" * 64)))
    )


@pytest.mark.parametrize("depth", [500, 2000])
def test_deep_json_is_refused(depth: int) -> None:
    for part in (b"[" * depth, b'{"a":' * depth):
        refused(b".".join((encoded(part), encoded(part), b"")))


# -- key sets and settings --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("nonsense", "is no JSON"),
        ("[]", "is no JSON"),
        ('{"keys": {}}', "must hold a list"),
        ('{"keys": []}', "holds no key"),
        (json.dumps({"keys": [{"kty": "oct", "k": "AAAA", "kid": "a"}]}), "holds a secret key"),
        (json.dumps({"keys": [jwk("ec", d="AAAA")]}), "holds a secret key"),
        (json.dumps({"keys": [jwk("rsa-short")]}), "holds no key"),
        (json.dumps({"keys": [jwk("rsa", use="enc")]}), "holds no key"),
        (json.dumps({"keys": [jwk("rsa", alg="HS256")]}), "holds no key"),
        (json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}), "holds no key"),
        (json.dumps({"keys": [jwk("ec")] * 65}), "at most 64"),
    ],
)
def test_a_key_set_that_cannot_be_used_is_refused_by_its_issuer(keys: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        read_keys(keys, ISSUER)
    assert ISSUER.issuer in caught.value.message


def test_a_token_without_a_key_id_is_taken_where_one_key_fits() -> None:
    only = TokenChecker([TrustedIssuer(issuer=ISSUER, jwks=issuing.jwks("ec"))], wall=lambda: NOW)
    content = encoded({"alg": "ES256"}) + b"." + encoded(CLAIMS)
    sent = content + b"." + encoded(_sign(content))
    assert only.check(sent).subject == "ada"
    two = TrustedIssuer(issuer=ISSUER, jwks=json.dumps({"keys": [jwk("ec"), jwk("ec-other")]}))
    assert "does not publish" in refused(sent, TokenChecker([two], wall=lambda: NOW))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"algorithms": ("none",)}, "algorithms"),
        ({"algorithms": ("HS256",)}, "algorithms"),
        ({"algorithms": ()}, "algorithms"),
        ({"jwks": "http://login.example/keys"}, "not encrypted"),
        ({"jwks": "ftp://login.example/keys"}, "neither an https URL nor a path"),
        ({"audience": ""}, "audience"),
        ({"leeway_s": 301}, "leeway_s"),
        ({"scopes": {"x": ("root",)}}, "is no scope"),
    ],
)
def test_settings_that_would_weaken_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JwtIssuer.model_validate({**ISSUER.model_dump(), **fields})


def test_an_issuer_stands_once() -> None:
    with pytest.raises(ValidationError, match="stands twice"):
        IssuersSpec(issuers=(ISSUER, ISSUER))
