"""Every key and name that comes from another key: HKDF-SHA256 (RFC 5869) with one label per purpose.

Labels end in a NUL byte and none is a prefix of another, so keys for different purposes never meet.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING

from blake3 import blake3
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lightmill.errors import RequestError

if TYPE_CHECKING:
    from typing_extensions import Buffer

KEY_BYTES = 32
"""The length of every secret key of this format: 256 bits."""

ASSET_ID_CHARS = 26
"""The length of an asset id: 26 characters of base32 are 130 bits."""


def new_key() -> bytes:
    """Return a fresh random key of 32 bytes from the operating system."""
    return secrets.token_bytes(KEY_BYTES)


def derive(key: bytes, info: bytes, *, salt: bytes | None = None, length: int = KEY_BYTES) -> bytes:
    """Return `length` bytes of HKDF-SHA256; no salt means 32 zero bytes (RFC 5869, section 2.2).

    Raises:
        RequestError: When the key does not have 32 bytes.
    """
    if len(key) != KEY_BYTES:
        raise RequestError(f"A key has {KEY_BYTES} bytes, this one has {len(key)}; make one with new_key()")
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(key)


def parquet_key(version_key: bytes, key_name: str) -> bytes:
    """Return the 32-byte key called `key_name` of one dataset version, for Parquet Modular Encryption."""
    return derive(version_key, b"lmparquet1\0" + key_name.encode())


def asset_id(name_key: bytes, kind: str, name: str) -> str:
    """Return the asset's id on the store, 26 characters of [a-z2-7]: the same name gives the same id.

    Only the holder of the workspace's name key can compute it or test a guessed name against it.

    Raises:
        RequestError: When kind contains a NUL, which separates it from the name.
    """
    if "\0" in kind:
        raise RequestError(f"An asset kind cannot contain a NUL character: {kind!r}")
    digest = hmac.digest(name_key, kind.encode() + b"\0" + name.encode(), hashlib.sha256)
    return base64.b32encode(digest).decode().lower()[:ASSET_ID_CHARS]


def dedup_key(name_key: bytes, mid: str) -> bytes:
    """Return the 32-byte key under which the pieces of one asset are fingerprinted."""
    return derive(name_key, b"lmdedup1\0" + mid.encode())


def masking_key(name_key: bytes) -> bytes:
    """Return the 32-byte key of a workspace's pseudonyms, tokens and noise: the same for all its datasets."""
    return derive(name_key, b"lmmask1\0")


def fingerprinter(key: bytes, data: Buffer = b"") -> blake3:
    """Return what digests a piece's plaintext, `data` and then `update`s; `hexdigest` is its fingerprint.

    Equal pieces of one asset have equal fingerprints, their keyed BLAKE3 digests; without the key one says nothing.
    """
    return blake3(data, key=key)
