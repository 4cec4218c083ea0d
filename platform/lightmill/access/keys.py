"""API keys: how they are made, read and checked; pure, so that a replica never asks the catalog.

A key is the text `lm_<id>_<secret>`: the id is 8 hex digits and public, the secret is 32 random bytes in
base64url without padding, 43 characters. `lm_` lets scanners find keys that leaked into code. No message
contains what the caller sent: a key with a typing mistake is still nearly a key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lightmill.errors import AuthenticationError
from lightmill.records.access import ADMIN, LimitsSpec
from lightmill.records.base import iso_of, now_iso, seconds_of
from lightmill.records.endpoints import ApiKey

ID_BYTES = 4
SECRET_BYTES = 32
MAX_CACHED = 1024
_KEY = re.compile(r"lm_([0-9a-f]{8})_([A-Za-z0-9_-]{43})", re.ASCII)
_NOBODY = "0" * 64
BEARER = "bearer"
PLAIN = "plain"
_HOW = "send it as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'"


def mint_key(
    name: str,
    role: str = "admin",
    *,
    scopes: Sequence[str] = (ADMIN,),
    expires: str | None = None,
    limits: LimitsSpec = LimitsSpec(),  # noqa: B008 - a frozen record
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> tuple[str, ApiKey]:
    """Return a new key's text, which is shown once and never kept, and the record to keep.

    Args:
        name: What the key is for, as people will read it in a list.
        role: What the key's holder is.
        scopes: What the key allows.
        expires: From when on it is refused.
        limits: How much it may ask of one endpoint.
        random: Returns that many unpredictable bytes.
    """
    id = random(ID_BYTES).hex()
    secret = _new_secret(random)
    record = ApiKey(
        id=id,
        name=name,
        secret_sha256=hash_secret(secret),
        role=role,
        scopes=tuple(scopes),
        created=now_iso(),
        expires=expires,
        limits=limits,
    )
    return f"lm_{id}_{secret}", record


def rotate_key(
    key: ApiKey, overlap_s: float, *, now: float, random: Callable[[int], bytes] = secrets.token_bytes
) -> tuple[str, ApiKey]:
    """Return a key's new text and its record; the secret of before is good for `overlap_s` seconds more.

    There is one secret of before: a rotation during an overlap ends the oldest one.
    """
    secret = _new_secret(random)
    overlaps = overlap_s > 0
    record = key.model_copy(
        update={
            "secret_sha256": hash_secret(secret),
            "old_sha256": key.secret_sha256 if overlaps else None,
            "old_until": iso_of(now + overlap_s) if overlaps else None,
        }
    )
    return f"lm_{key.id}_{secret}", record


def _new_secret(random: Callable[[int], bytes]) -> str:
    return base64.urlsafe_b64encode(random(SECRET_BYTES)).rstrip(b"=").decode()


def parse_key(text: str) -> tuple[str, str] | None:
    """Return the id and the secret in a key's text, or None when it has not the form of a key."""
    found = _KEY.fullmatch(text)
    return (found[1], found[2]) if found else None


def hash_secret(secret: str) -> str:
    """Return the SHA-256 of a secret, in hex: what is kept instead of it.

    A slow, salted password hash makes guessing expensive where people choose the secret. This one has 256
    random bits, so nobody guesses it at any speed and no table of digests can hold it (NIST SP 800-63B,
    5.1.2.2, asks neither of look-up secrets with 112 bits or more). A fast hash keeps requests fast.
    """
    return hashlib.sha256(secret.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A key that was presented rightly, and until when (seconds since 1970) that holds without another look."""

    key: ApiKey
    until: float


class KeyChecker:
    """Checks keys against a fixed set; make a new one when keys are added or revoked.

    An accepted header value is remembered, at most `MAX_CACHED` of them, so that the next request with it
    is one dict lookup. That lookup compares bytes only under an equal 64-bit hash, which is keyed at random
    per process (PEP 456), so its time tells nothing about a key. What is refused is never remembered.

    Args:
        keys: The keys of this deployment; revoked and expired ones are refused with a message that says so.
        wall: Returns the time in seconds since 1970.
    """

    def __init__(self, keys: Iterable[ApiKey], *, wall: Callable[[], float] = time.time) -> None:
        self._keys = {key.id: key for key in keys}
        self._wall = wall
        self._bearers: dict[bytes, Verified] = {}
        self._plain: dict[bytes, Verified] = {}

    def check(self, authorization: str | None, x_api_key: str | None) -> ApiKey:
        """Return the key that the values of the two headers present; see `check_headers`.

        Raises:
            AuthenticationError: There is no key, or it is malformed, unknown, expired or revoked.
        """
        return self._check(_encoded(authorization), _encoded(x_api_key))

    def check_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> ApiKey:
        """Return the key that raw ASGI headers (names in lower case) present; see `credentials`.

        Raises:
            AuthenticationError: There is no key, or it is malformed, unknown, expired or revoked.
        """
        return self._check(*credentials(headers))

    def verify(self, presented: bytes) -> Verified:
        """Return the key of a text, looked at afresh.

        Raises:
            AuthenticationError: It is malformed, unknown, expired or revoked.
        """
        parsed = parse_key(presented.strip().decode("ascii", "replace"))
        if parsed is None:
            raise AuthenticationError(f"The API key is malformed: it has the form lm_<id>_<secret>; {_HOW}.")
        id, secret = parsed
        key = self._keys.get(id)
        now, digest = self._wall(), hash_secret(secret).encode()
        until = float("inf")
        known = hmac.compare_digest(digest, (key.secret_sha256 if key else _NOBODY).encode())
        rotated = hmac.compare_digest(digest, (key.old_sha256 if key and key.old_sha256 else _NOBODY).encode())
        if key is None or not (known or rotated):
            raise AuthenticationError("This deployment does not know the API key; check it, or mint another.")
        if not known:
            until = seconds_of(key.old_until) if key.old_until else 0.0
            if now >= until:
                raise AuthenticationError(
                    f"The API key {key.name!r} was rotated, and this secret was good until {key.old_until}; use the "
                    "new one."
                )
        if key.revoked is not None:
            raise AuthenticationError(f"The API key {key.name!r} was revoked at {key.revoked}; use another.")
        if key.expires is not None:
            until = min(until, seconds_of(key.expires))
            if now >= until:
                raise AuthenticationError(f"The API key {key.name!r} expired at {key.expires}; mint another.")
        return Verified(key=key, until=until)

    def _check(self, authorization: bytes | None, x_api_key: bytes | None) -> ApiKey:
        kind, presented = presented_by(authorization, x_api_key)
        whole, cache = (authorization, self._bearers) if kind == BEARER else (x_api_key, self._plain)
        known = cache.get(whole) if whole is not None else None
        if known is not None and self._wall() < known.until:
            return known.key
        found = self.verify(presented)
        if whole is not None:
            _remember(cache, whole, found)
        return found.key


def credentials(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes | None, bytes | None]:
    """Return the values of `Authorization` and `X-API-Key`; of a header that is sent twice the first counts."""
    authorization = x_api_key = None
    for name, value in headers:
        if name == b"authorization" and authorization is None:
            authorization = value
        elif name == b"x-api-key" and x_api_key is None:
            x_api_key = value
    return authorization, x_api_key


def presented_by(authorization: bytes | None, x_api_key: bytes | None) -> tuple[str, bytes]:
    """Return which header presents a key or token, `BEARER` or `PLAIN`, and what it presents.

    `Authorization` counts before `X-API-Key`, unless it holds another scheme than Bearer.

    Raises:
        AuthenticationError: Neither does.
    """
    if authorization is not None:
        scheme, _, presented = authorization.strip().partition(b" ")
        if scheme.lower() == b"bearer":
            return BEARER, presented.strip()
    if x_api_key is not None:
        return PLAIN, x_api_key
    if authorization is not None:
        raise AuthenticationError(f"The Authorization header has no Bearer key; {_HOW}.")
    raise AuthenticationError(f"This needs an API key; {_HOW}.")


def _encoded(value: str | None) -> bytes | None:
    return None if value is None else value.encode("utf-8", "replace")


def _remember(cache: dict[bytes, Verified], value: bytes, found: Verified) -> None:
    if len(cache) >= MAX_CACHED:  # a good key spelled in many ways, such as with more blanks
        cache.clear()
    cache[value] = found
