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
from collections.abc import Callable, Iterable

from lightmill.errors import AuthenticationError
from lightmill.records.base import now_iso
from lightmill.records.endpoints import ApiKey

ID_BYTES = 4
SECRET_BYTES = 32
MAX_CACHED = 1024
_KEY = re.compile(r"lm_([0-9a-f]{8})_([A-Za-z0-9_-]{43})", re.ASCII)
_NOBODY = "0" * 64
_HOW = "send it as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'"


def mint_key(
    name: str, role: str = "admin", *, random: Callable[[int], bytes] = secrets.token_bytes
) -> tuple[str, ApiKey]:
    """Return a new key's text, which is shown once and never kept, and the record to keep.

    Args:
        name: What the key is for, as people will read it in a list.
        role: What the key allows.
        random: Returns that many unpredictable bytes.
    """
    id = random(ID_BYTES).hex()
    secret = base64.urlsafe_b64encode(random(SECRET_BYTES)).rstrip(b"=").decode()
    record = ApiKey(id=id, name=name, secret_sha256=hash_secret(secret), role=role, created=now_iso())
    return f"lm_{id}_{secret}", record


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


class KeyChecker:
    """Checks keys against a fixed set; make a new one when keys are added or revoked.

    An accepted header value is remembered, at most `MAX_CACHED` of them, so that the next request with it
    is one dict lookup. That lookup compares bytes only under an equal 64-bit hash, which is keyed at random
    per process (PEP 456), so its time tells nothing about a key. What is refused is never remembered.

    Args:
        keys: The keys of this deployment; revoked ones are refused with a message that says so.
    """

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = {key.id: key for key in keys}
        self._bearers: dict[bytes, ApiKey] = {}
        self._plain: dict[bytes, ApiKey] = {}

    def check(self, authorization: str | None, x_api_key: str | None) -> ApiKey:
        """Return the key that the values of the two headers present; see `check_headers`.

        Raises:
            AuthenticationError: There is no key, or it is malformed, unknown or revoked.
        """
        return self._check(_encoded(authorization), _encoded(x_api_key))

    def check_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> ApiKey:
        """Return the key that raw ASGI headers (names in lower case) present.

        `Authorization` counts before `X-API-Key`, unless it holds another scheme than Bearer; of a header
        that is sent twice the first counts.

        Raises:
            AuthenticationError: There is no key, or it is malformed, unknown or revoked.
        """
        authorization = x_api_key = None
        for name, value in headers:
            if name == b"authorization" and authorization is None:
                authorization = value
            elif name == b"x-api-key" and x_api_key is None:
                x_api_key = value
        return self._check(authorization, x_api_key)

    def _check(self, authorization: bytes | None, x_api_key: bytes | None) -> ApiKey:
        if authorization is not None:
            known = self._bearers.get(authorization)
            if known is not None:
                return known
            scheme, _, credentials = authorization.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                return _remember(self._bearers, authorization, self._verify(credentials))
        if x_api_key is not None:
            known = self._plain.get(x_api_key)
            return known or _remember(self._plain, x_api_key, self._verify(x_api_key))
        if authorization is not None:
            raise AuthenticationError(f"The Authorization header has no Bearer key; {_HOW}.")
        raise AuthenticationError(f"This needs an API key; {_HOW}.")

    def _verify(self, presented: bytes) -> ApiKey:
        parsed = parse_key(presented.strip().decode("ascii", "replace"))
        if parsed is None:
            raise AuthenticationError(f"The API key is malformed: it has the form lm_<id>_<secret>; {_HOW}.")
        id, secret = parsed
        key = self._keys.get(id)
        expected = key.secret_sha256 if key else _NOBODY
        if not hmac.compare_digest(hash_secret(secret).encode(), expected.encode()) or key is None:
            raise AuthenticationError("This deployment does not know the API key; check it, or mint another.")
        if key.revoked is not None:
            raise AuthenticationError(f"The API key {key.name!r} was revoked at {key.revoked}; use another.")
        return key


def _encoded(value: str | None) -> bytes | None:
    return None if value is None else value.encode("utf-8", "replace")


def _remember(cache: dict[bytes, ApiKey], value: bytes, key: ApiKey) -> ApiKey:
    if len(cache) >= MAX_CACHED:  # a good key spelled in many ways, such as with more blanks
        cache.clear()
    cache[value] = key
    return key
