"""What seals the secret part of a protected key ring: a key from a passphrase, or one that a service wraps.

The secrets are encrypted with AES-256-GCM under a key derived from that key and the ring's id; everything
else in the file is associated data. A commitment to the key stands before the ciphertext, so that a wrong
passphrase and a damaged file are told apart.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Annotated, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, ConfigDict, Field

from lightmill.errors import IntegrityError, RequestError
from lightmill.vault.confined import Confined
from lightmill.vault.derivation import KEY_BYTES, derive
from lightmill.vault.passphrase import Argon2idKdf, ScryptKdf

_NONCE_BYTES = 12


class ServiceWrap(BaseModel):
    """The sealing key, wrapped by a key service under `seal_context`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["service"] = "service"
    provider: str
    key_id: str
    wrapped: Annotated[str, Field(max_length=1 << 16)]


Protection = Argon2idKdf | ScryptKdf | ServiceWrap


def seal_context(ring_id: str) -> dict[str, str]:
    """Return the context under which a key service wraps a ring's sealing key."""
    return {"purpose": "key-ring", "ring": ring_id}


class RingSeal(Confined):
    """A sealing key with the description of where it comes from, which the file carries."""

    __slots__ = ("_key", "protection")

    def __init__(self, key: bytes, protection: Protection) -> None:
        self._key = key
        self.protection = protection

    def __repr__(self) -> str:
        return f"RingSeal({self.protection.kind!r})"

    def seal(self, secret: bytes, public: bytes, ring_id: str) -> bytes:
        """Return commitment, nonce and ciphertext of a ring's secrets, bound to its public part."""
        cipher, commitment = self._derive(ring_id)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return commitment + nonce + cipher.encrypt(nonce, secret, public)

    def open(self, sealed: bytes, public: bytes, ring_id: str) -> bytes:
        """Return a ring's secrets.

        Raises:
            RequestError: When the passphrase is another one.
            IntegrityError: When the file was changed.
        """
        cipher, commitment = self._derive(ring_id)
        head = KEY_BYTES + _NONCE_BYTES
        if not hmac.compare_digest(sealed[:KEY_BYTES], commitment):
            raise RequestError(
                "The key ring does not open with this passphrase or service key; it is the wrong one, or the "
                "file's head was changed. Check the passphrase first, then restore the file from its backup"
            )
        try:
            return cipher.decrypt(sealed[KEY_BYTES:head], sealed[head:], public)
        except (InvalidTag, ValueError):
            raise IntegrityError("The key ring's sealed part was changed; restore it from its backup") from None

    def _derive(self, ring_id: str) -> tuple[AESGCM, bytes]:
        material = derive(self._key, b"lmring1\0" + ring_id.encode(), length=2 * KEY_BYTES)
        return AESGCM(material[:KEY_BYTES]), material[KEY_BYTES:]
