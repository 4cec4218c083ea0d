"""JSON Web Tokens (RFC 7519) of trusted issuers; pure: keys come in, nothing is fetched and nothing remembered.

What is taken follows RFC 8725: the algorithm is one that the issuer's settings name and that its key is for, so that
`none` and a public key used as a shared secret open nothing; keys come from the issuer's set alone, never from the
token (`jku`, `jwk` and `x5u` are not looked at); `iss`, `aud`, `exp` and `sub` must be there. No message repeats
anything of a token.
"""

from __future__ import annotations

import math
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.exceptions import InvalidKeyError, PyJWTError

from lightmill.errors import AuthenticationError, RequestError
from lightmill.records.access import JwtIssuer, LimitsSpec, TrustedIssuer, check_scope

TOKEN_MAX_BYTES = 8192
SUBJECT_MAX = 200
RSA_MIN_BITS = 2048
JWKS_MAX_KEYS = 64
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_TYPES = (None, "JWT", "jwt", "at+jwt", "application/at+jwt")
_GIVEN_BY_THE_MAP_ALONE = ("admin", "metrics")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a good token says; `until` is in seconds since 1970."""

    issuer: str
    subject: str
    scopes: tuple[str, ...]
    limits: LimitsSpec
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """A public key, and the algorithms that it verifies."""

    key: Any
    id: str | None
    algorithms: frozenset[str]


class TokenChecker:
    """Checks tokens of some issuers."""

    def __init__(self, issuers: Iterable[TrustedIssuer], *, wall: Callable[[], float] = time.time) -> None:
        """Read the key sets.

        Raises:
            RequestError: A set is malformed or holds no key that can be used.
        """
        self._wall = wall
        self._issuers = {each.issuer.issuer: (each.issuer, read_keys(each.jwks, each.issuer)) for each in issuers}
        self._jws = jwt.PyJWS()

    def check(self, token: bytes) -> Token:
        """Return what a token says.

        Raises:
            AuthenticationError: It is not what a trusted issuer signed for us, or its time has passed.
        """
        if len(token) > TOKEN_MAX_BYTES:
            raise AuthenticationError(f"The token is longer than {TOKEN_MAX_BYTES} bytes.")
        header, claims = _parts(token)
        issuer, keys = self._issuer(claims.get("iss"))
        key, algorithm = _key_for(header, issuer, keys)
        try:
            signed = self._jws.decode(token, key=key.key, algorithms=[algorithm])
        except (PyJWTError, ValueError, TypeError, RecursionError) as exc:
            raise AuthenticationError("The token's signature is not its issuer's.") from exc
        return self._claims(_json_object(signed, "claims"), issuer)

    def _issuer(self, name: object) -> tuple[JwtIssuer, list[_Key]]:
        found = self._issuers.get(name) if isinstance(name, str) else None
        if found is None:
            raise AuthenticationError("This deployment does not trust the issuer of the token.")
        return found

    def _claims(self, claims: dict[str, Any], issuer: JwtIssuer) -> Token:
        """Check the claims of a signed token (RFC 7519, section 4.1)."""
        now = self._wall()
        if claims.get("iss") != issuer.issuer:
            raise AuthenticationError("This deployment does not trust the issuer of the token.")
        audience = claims.get("aud")
        if issuer.audience not in (audience if isinstance(audience, list) else [audience]):
            raise AuthenticationError("The token is meant for another audience than this deployment.")
        expires = _seconds(claims, "exp")
        if expires is None:
            raise AuthenticationError("The token has no expiry (claim 'exp').")
        if now >= expires + issuer.leeway_s:
            raise AuthenticationError("The token has expired; get another one from its issuer.")
        for claim in ("nbf", "iat"):
            begins = _seconds(claims, claim)
            if begins is not None and begins > now + issuer.leeway_s:
                raise AuthenticationError(f"The token is not good yet (claim '{claim}').")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_MAX:
            raise AuthenticationError(f"The token must name its subject (claim 'sub', at most {SUBJECT_MAX} letters).")
        return Token(
            issuer=issuer.issuer,
            subject=subject,
            scopes=scopes_of(claims.get(issuer.scope_claim), issuer),
            limits=issuer.limits,
            until=expires + issuer.leeway_s,
        )


def scopes_of(claim: object, issuer: JwtIssuer) -> tuple[str, ...]:
    """Return the scopes that the value of an issuer's scope claim gives: words with blanks between, or a list."""
    values = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    found: set[str] = set()
    for value in values:
        if not isinstance(value, str):
            continue
        if value in issuer.scopes:
            found.update(issuer.scopes[value])
        elif value not in _GIVEN_BY_THE_MAP_ALONE and _is_scope(value):
            found.add(value)
    return tuple(sorted(found))


def read_keys(jwks: str, issuer: JwtIssuer) -> list[_Key]:
    """Return the keys of a set (RFC 7517) that verify one of the issuer's algorithms.

    Raises:
        RequestError: It is no key set, or holds none; a secret or private key in it is refused, since it is no secret
            any more.
    """
    where = f"The key set of issuer {issuer.issuer!r}"
    try:
        entries = orjson.loads(jwks)["keys"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise RequestError(f'{where} is no JSON of the form {{"keys": [...]}}.') from exc
    if not isinstance(entries, list) or len(entries) > JWKS_MAX_KEYS:
        raise RequestError(f"{where} must hold a list of at most {JWKS_MAX_KEYS} keys.")
    found: list[_Key] = []
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        if entry.get("kty") == "oct" or "d" in entry:
            raise RequestError(f"{where} holds a secret key; only public keys belong there.")
        key = _read_key(entry, issuer)
        if key is not None:
            found.append(key)
    if not found:
        raise RequestError(f"{where} holds no key for {', '.join(issuer.algorithms)} (RSA of {RSA_MIN_BITS} bits).")
    return found


def _read_key(entry: dict[str, Any], issuer: JwtIssuer) -> _Key | None:
    """Return a key; None for one of a kind that is not taken."""
    try:
        key = jwt.PyJWK.from_dict(entry, algorithm=_any_algorithm(entry)).key
    except (PyJWTError, InvalidKeyError, ValueError, TypeError, KeyError):
        return None
    taken = _algorithms_of(key) & set(issuer.algorithms)
    if isinstance(entry.get("alg"), str):
        taken &= {entry["alg"]}
    id = entry.get("kid")
    return _Key(key=key, id=id if isinstance(id, str) else None, algorithms=frozenset(taken)) if taken else None


def _any_algorithm(entry: dict[str, Any]) -> str | None:
    """Return an algorithm with which PyJWT reads a key of this kind; what it is for is decided by the key itself."""
    return {"RSA": "RS256", "OKP": "EdDSA"}.get(str(entry.get("kty")))


def _algorithms_of(key: object) -> set[str]:
    if isinstance(key, RSAPublicKey) and key.key_size >= RSA_MIN_BITS:
        return {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return {_CURVES[key.curve.name]}
    return {"EdDSA"} if isinstance(key, Ed25519PublicKey) else set()


def _key_for(header: dict[str, Any], issuer: JwtIssuer, keys: list[_Key]) -> tuple[_Key, str]:
    """Return the key that a header means, and the algorithm."""
    algorithm, id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
        raise AuthenticationError(f"The token must be signed by one of {', '.join(issuer.algorithms)}.")
    if "crit" in header or "b64" in header or header.get("typ") not in _TYPES:
        raise AuthenticationError("The token's header asks for extensions that are not taken here.")
    fitting = [key for key in keys if algorithm in key.algorithms and (id is None or key.id == id)]
    if len(fitting) != 1:
        raise AuthenticationError("The token is signed with a key that its issuer does not publish.")
    return fitting[0], algorithm


def _parts(token: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims as they are sent, not verified: they only choose issuer and key."""
    header, claims, _ = token.split(b".")
    try:
        decoded = [urlsafe_b64decode(part + b"=" * (-len(part) % 4)) for part in (header, claims)]
    except ValueError as exc:
        raise AuthenticationError("The token is no JSON Web Token.") from exc
    return _json_object(decoded[0], "header"), _json_object(decoded[1], "claims")


def _json_object(data: bytes, what: str) -> dict[str, Any]:
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise AuthenticationError(f"The token's {what} are no JSON.") from exc
    if not isinstance(found, dict):
        raise AuthenticationError(f"The token's {what} are no JSON object.")
    return found


def _seconds(claims: dict[str, Any], name: str) -> float | None:
    found = claims.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        raise AuthenticationError(f"The token's claim '{name}' is no time.")
    return float(found)


def _is_scope(value: str) -> bool:
    try:
        check_scope(value)
    except ValueError:
        return False
    return True
