"""Wrapping under root keys that this process holds, without a key service."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lightmill.errors import IntegrityError, RequestError
from lightmill.vault.canonical import canonical_json
from lightmill.vault.confined import Confined
from lightmill.vault.derivation import KEY_BYTES, derive
from lightmill.vault.keyring_file import KeyRingFile
from lightmill.vault.wrapping import KeyProvider, Wrapped

URI_SCHEME = "local-keyring:"

_SALT_BYTES = 32
_NONCE_BYTES = 12
_WRAPPED_BYTES = _SALT_BYTES + _NONCE_BYTES + KEY_BYTES + 16


class LocalKeyProvider(Confined, KeyProvider):
    """Wraps with AES-256-GCM under HKDF(root key, fresh salt, context); the context is authenticated too."""

    __slots__ = ("_contents", "_path")

    def __init__(self, path: Path, contents: Callable[[], KeyRingFile]) -> None:
        self._path = path
        self._contents = contents

    def __repr__(self) -> str:
        return f"LocalKeyProvider(uri={self.uri!r}, key_id={self.key_id!r})"

    @property
    def uri(self) -> str:
        """The scheme "local-keyring:" and the public id of the key ring."""
        return URI_SCHEME + self._contents().ring_id

    @property
    def key_id(self) -> str:
        """The current root key."""
        return self._contents().current_root_key

    def wrap(self, key: bytes, context: Mapping[str, str]) -> Wrapped:
        """Wrap a key; see the port."""
        if len(key) != KEY_BYTES:
            raise RequestError(f"A key has {KEY_BYTES} bytes, this one has {len(key)}; make one with new_key()")
        key_id = self.key_id
        ciphertext = wrap_key(self._contents().root_keys[key_id], key, context)
        return Wrapped(provider=self.uri, key_id=key_id, ciphertext=ciphertext)

    def unwrap(self, wrapped: Wrapped, context: Mapping[str, str]) -> bytes:
        """Unwrap a key; see the port. The root key's id decides, whichever ring it was first made in."""
        root_key = self._contents().root_keys.get(wrapped.key_id)
        if root_key is None or not wrapped.provider.startswith(URI_SCHEME):
            raise IntegrityError(
                f"This data needs the root key {wrapped.key_id} of {wrapped.provider}, which the key "
                f"ring {self._path} ({self._contents().ring_id}) does not hold; point to the key ring that "
                "wrote it, or restore that ring from its backup"
            )
        try:
            return unwrap_key(root_key, wrapped.ciphertext, context)
        except InvalidTag:
            raise IntegrityError(
                f"This data names the root key {wrapped.key_id}, but that key of the key ring "
                f"{self._path} does not unwrap it: the wrapped key was changed or moved, or the ring is "
                "another one. Restore the envelope or the key ring from a backup"
            ) from None

    def rewrap(self, wrapped: Wrapped, context: Mapping[str, str]) -> Wrapped:
        """Wrap again under the current root key; see the port."""
        return self.wrap(self.unwrap(wrapped, context), context)

    def health(self) -> None:
        """Return; the keys are in memory."""


def wrap_key(
    root_key: bytes,
    key: bytes,
    context: Mapping[str, str],
    *,
    salt: bytes | None = None,
    nonce: bytes | None = None,
) -> bytes:
    """Return salt, nonce and the encrypted key; salt and nonce are given by test vectors only."""
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    nonce = secrets.token_bytes(_NONCE_BYTES) if nonce is None else nonce
    return salt + nonce + _wrapping_cipher(root_key, salt, context).encrypt(nonce, key, canonical_json(dict(context)))


def unwrap_key(root_key: bytes, wrapped: bytes, context: Mapping[str, str]) -> bytes:
    """Return the key that `wrap_key` encrypted.

    Raises:
        InvalidTag: When the root key, the context or the bytes are not the ones that were used.
    """
    if len(wrapped) != _WRAPPED_BYTES:
        raise InvalidTag
    salt, nonce = wrapped[:_SALT_BYTES], wrapped[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES]
    ciphertext = wrapped[_SALT_BYTES + _NONCE_BYTES :]
    return _wrapping_cipher(root_key, salt, context).decrypt(nonce, ciphertext, canonical_json(dict(context)))


def _wrapping_cipher(root_key: bytes, salt: bytes, context: Mapping[str, str]) -> AESGCM:
    return AESGCM(derive(root_key, b"lmwrap1\0" + canonical_json(dict(context)), salt=salt))
