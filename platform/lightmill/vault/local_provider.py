"""Root keys that lie in the key ring itself, without a key service.

A key is wrapped with AES-256-GCM under HKDF(root key, fresh salt, context); the context is authenticated too.
"""

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
from lightmill.vault.keyring_file import KeyRingFile, new_root_key
from lightmill.vault.services import DESTROYED_NOW, KeyService

_SALT_BYTES = 32
_NONCE_BYTES = 12
_WRAPPED_BYTES = _SALT_BYTES + _NONCE_BYTES + KEY_BYTES + 16

Change = Callable[[Callable[[KeyRingFile], KeyRingFile]], None]


class LocalKeys(Confined, KeyService):
    """Wraps under the root keys of a key ring; `change` saves the ring."""

    __slots__ = ("_change", "_contents", "_path")

    def __init__(self, path: Path, contents: Callable[[], KeyRingFile], change: Change) -> None:
        self._path = path
        self._contents = contents
        self._change = change

    def __repr__(self) -> str:
        return f"LocalKeys(uri={self.uri!r})"

    @property
    def uri(self) -> str:
        """The scheme "local-keyring:" and the public id of the key ring."""
        return self._contents().local_uri

    def wrap(self, key_id: str, key: bytes, context: Mapping[str, str]) -> bytes:
        """Wrap a key; see the port."""
        self.check(key_id)
        return wrap_key(self._contents().secrets.root_keys[key_id], key, context)

    def unwrap(self, key_id: str, ciphertext: bytes, context: Mapping[str, str]) -> bytes:
        """Unwrap a key; see the port."""
        root_key = self._contents().secrets.root_keys.get(key_id)
        if root_key is None:
            raise IntegrityError(
                f"This data needs the root key {key_id}, which is missing from the key ring {self._path}; "
                "restore the ring from its backup"
            )
        try:
            return unwrap_key(root_key, ciphertext, context)
        except InvalidTag:
            raise IntegrityError(
                f"This data names the root key {key_id}, but that key of the key ring "
                f"{self._path} does not unwrap it: the wrapped key was changed or moved, or the ring is "
                "another one. Restore the envelope or the key ring from a backup"
            ) from None

    def rewrap(self, key_id: str, ciphertext: bytes, context: Mapping[str, str], new_key_id: str) -> bytes:
        """Wrap again under another root key; see the port."""
        return self.wrap(new_key_id, self.unwrap(key_id, ciphertext, context), context)

    def check(self, key_id: str) -> str:
        """Return the id when the ring holds the key; see the port."""
        if key_id not in self._contents().secrets.root_keys:
            raise RequestError(f"The key ring {self._path} holds no root key {key_id}; see `lightmill keys list`")
        return key_id

    def create(self, label: str) -> str:
        """Make a root key and save the ring; the label is not kept."""
        key_id, key = new_root_key()
        self._change(lambda now: now.with_secrets(root_keys=now.secrets.root_keys | {key_id: key}))
        return key_id

    def destroy(self, key_id: str) -> str:
        """Remove a root key from the file and save it. Copies of the file still have it; see docs/security.md."""

        def without(now: KeyRingFile) -> KeyRingFile:
            return now.with_secrets(root_keys={k: v for k, v in now.secrets.root_keys.items() if k != key_id})

        self._change(without)
        return DESTROYED_NOW


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
