"""The caller's masking key, and every key that comes from it: HMAC-SHA-256 (RFC 2104) with one label per purpose."""

from __future__ import annotations

import hashlib
import hmac
from typing import NoReturn, SupportsIndex

from lightmill.errors import RequestError

LEAST_KEY_BYTES = 32


class MaskingKey:
    """The key of a policy's pseudonyms, tokens and noise. It is never shown, copied or pickled.

    Keys for different policies, purposes and domains never meet: each part of their label is preceded by its
    length. The policy's version is no part of it, so that pseudonyms still join after an edit of the policy.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes, policy: str) -> None:
        """Derive the key of a policy.

        Raises:
            RequestError: The key has fewer than 32 bytes.
        """
        if len(key) < LEAST_KEY_BYTES:
            raise RequestError(
                f"A masking key has at least {LEAST_KEY_BYTES} bytes, this one has {len(key)}; make one with "
                "secrets.token_bytes(32) and keep it, since it alone makes pseudonyms join."
            )
        self._key = hmac.digest(bytes(key), _label("lightmill masking 1", policy), hashlib.sha256)

    def derive(self, purpose: str, *parts: str) -> bytes:
        """Return the 32-byte key for a purpose and what it concerns."""
        return hmac.digest(self._key, _label(purpose, *parts), hashlib.sha256)

    def check_value(self) -> str:
        """Return 16 hex digits that tell this key from others and say nothing else about it."""
        return self.derive("check value").hex()[:16]

    def __repr__(self) -> str:
        return "MaskingKey(hidden)"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "MaskingKey holds a secret key and does not pickle or copy; open the key in the other process and make "
            "the Masker there"
        )


def _label(*parts: str) -> bytes:
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)
