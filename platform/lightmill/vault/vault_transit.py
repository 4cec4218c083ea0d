"""Root keys in HashiCorp Vault's transit engine (or OpenBao's, which speaks the same HTTP API).

Keys that we make are `derived`: the context enters the derivation of the key that encrypts, so Vault can wrap
again without giving the key out. For keys that are not derived the context is associated data; since
Vault's rewrap takes none (hashicorp/vault issue 31791), such a key is decrypted and encrypted again.
The token is read from a file for each call, so that a renewed token counts; it travels in a header only.
Source: https://developer.hashicorp.com/vault/api-docs/secret/transit
"""

from __future__ import annotations

import re
import secrets
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from lightmill.errors import IntegrityError, LightmillError, NotFoundError, RequestError, UnavailableError
from lightmill.vault.canonical import canonical_json, decode_base64, encode_base64
from lightmill.vault.confined import Confined
from lightmill.vault.passphrase import read_private
from lightmill.vault.services import DESTROYED_NOW, KeyService, VaultTransitSettings

TIMEOUT_S = 10.0
MAX_TOKEN_BYTES = 8192
MAX_ANSWER_BYTES = 1 << 20

_KEY_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,200}[A-Za-z0-9_])?")
_DERIVED, _PLAIN = b"derived:", b"aad:"
_AEAD = frozenset({"aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305"})
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_LATER = frozenset({412, 429, 472, 473, 500, 502, 503, 504})


class VaultTransit(Confined, KeyService):
    """One transit engine."""

    __slots__ = ("_client", "_derived", "_settings")

    def __init__(self, settings: VaultTransitSettings) -> None:
        self._settings = settings
        self._derived: dict[str, bool] = {}
        host = httpx.URL(settings.url).host
        if settings.url.startswith("http://") and host not in _LOOPBACK:
            raise RequestError(
                f"{settings.url} would carry the token and the keys in the clear; use https, or http on loopback only"
            )
        try:
            secure = settings.url.startswith("https")
            verify = ssl.create_default_context(cafile=settings.ca_file or None) if secure else False
        except OSError as exc:
            raise RequestError(f"The CA file {settings.ca_file} cannot be read: {exc.strerror}") from exc
        # Redirects are not followed: the token would travel to wherever they point.
        self._client = httpx.Client(timeout=TIMEOUT_S, verify=verify, follow_redirects=False, trust_env=False)

    def __repr__(self) -> str:
        return f"VaultTransit(uri={self.uri!r})"

    @property
    def uri(self) -> str:
        """The scheme, the address and the mount."""
        return self._settings.uri

    def wrap(self, key_id: str, key: bytes, context: Mapping[str, str]) -> bytes:
        """Encrypt a key; see the port."""
        mark = _DERIVED if self._is_derived(key_id) else _PLAIN
        body = {"plaintext": encode_base64(key)} | _binding(mark, context)
        return mark + self._text(self._call("POST", f"encrypt/{key_id}", body, RequestError), "ciphertext").encode()

    def unwrap(self, key_id: str, ciphertext: bytes, context: Mapping[str, str]) -> bytes:
        """Decrypt a key; see the port."""
        mark, text = _split(ciphertext)
        answer = self._call("POST", f"decrypt/{_name(key_id)}", {"ciphertext": text} | _binding(mark, context))
        return decode_base64(self._text(answer, "plaintext"), name=f"The answer of {self.uri}")

    def rewrap(self, key_id: str, ciphertext: bytes, context: Mapping[str, str], new_key_id: str) -> bytes:
        """Wrap again: inside Vault when it is the same derived key, else by way of this process; see the port."""
        mark, text = _split(ciphertext)
        if mark != _DERIVED or key_id != new_key_id:
            return self.wrap(new_key_id, self.unwrap(key_id, ciphertext, context), context)
        answer = self._call("POST", f"rewrap/{_name(key_id)}", {"ciphertext": text} | _binding(mark, context))
        return mark + self._text(answer, "ciphertext").encode()

    def check(self, key_id: str) -> str:
        """Return the name of a key that can encrypt with authentication; see the port."""
        try:
            found = self._call("GET", f"keys/{_name(key_id)}", None, RequestError)
        except NotFoundError as exc:
            raise RequestError(exc.message) from exc
        if found.get("type") not in _AEAD:
            raise RequestError(
                f"The key {key_id} of {self.uri} is of type {found.get('type')!r}, which does not bind a context; "
                f"a root key is one of {', '.join(sorted(_AEAD))}"
            )
        self._derived[key_id] = found.get("derived") is True
        return key_id

    def create(self, label: str) -> str:
        """Make a derived aes256-gcm96 key; see the port."""
        name = f"{label}-{secrets.token_hex(4)}"
        self._call("POST", f"keys/{_name(name)}", {"type": "aes256-gcm96", "derived": True}, RequestError)
        return name

    def destroy(self, key_id: str) -> str:
        """Allow deletion and delete the key, at once and for good but for Vault's own snapshots; see the port."""
        try:
            self._call("GET", f"keys/{_name(key_id)}", None, RequestError)
        except NotFoundError:
            return DESTROYED_NOW
        self._call("POST", f"keys/{key_id}/config", {"deletion_allowed": True}, RequestError)
        self._call("DELETE", f"keys/{key_id}", None, RequestError)
        return DESTROYED_NOW

    def _is_derived(self, key_id: str) -> bool:
        if key_id not in self._derived:
            self.check(key_id)
        return self._derived[key_id]

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        blame: Callable[[str], LightmillError] = IntegrityError,
    ) -> dict[str, Any]:
        settings = self._settings
        headers = {"X-Vault-Request": "true", "X-Vault-Token": self._token()}
        if settings.namespace:
            headers["X-Vault-Namespace"] = settings.namespace
        url, answer, problem = f"{settings.url}/v1/{settings.mount}/{path}", None, ""
        try:
            answer = self._client.request(method, url, json=body, headers=headers)
        except httpx.HTTPError as exc:
            problem = type(exc).__name__
        if answer is None:  # outside of the except clause: httpx's error holds the request, and that the token
            raise UnavailableError(f"{self.uri} does not answer ({problem}); try again")
        return self._data(answer, path, blame)

    def _data(self, answer: httpx.Response, path: str, blame: Callable[[str], LightmillError]) -> dict[str, Any]:
        status, what = answer.status_code, f"{self.uri} ({path})"
        if status in _LATER:
            raise UnavailableError(f"{what} cannot answer now (status {status}); try again")
        if status == 403:
            raise RequestError(f"{what} refused the token in {self._settings.token_file}; renew it or its policy")
        if status == 404:
            kind = NotFoundError if path.startswith("keys/") else RequestError
            raise kind(f"{what} is not there; check the address, the mount and the key's name")
        if status == 400:
            raise blame(
                f"{what} says: {_reason(answer)}. The root key is gone, or the wrapped key was changed or moved; "
                "restore the envelope or the key"
            )
        if not answer.is_success:
            raise RequestError(f"{what} answered with status {status}; check the address")
        if status == 204 or not answer.content:
            return {}
        try:
            data = answer.json()["data"] if len(answer.content) <= MAX_ANSWER_BYTES else None
        except (ValueError, KeyError, TypeError):
            data = None
        if not isinstance(data, dict):
            raise UnavailableError(f"{what} gave an answer that is not Vault's; is there a proxy in between?")
        return data

    def _text(self, data: dict[str, Any], field: str) -> str:
        value = data.get(field)
        if not isinstance(value, str):
            raise UnavailableError(f"{self.uri} gave an answer without {field}; is there a proxy in between?")
        return value

    def _token(self) -> str:
        path = Path(self._settings.token_file).expanduser()
        try:
            token = read_private(path, MAX_TOKEN_BYTES, "token file").decode("ascii").strip()
        except UnicodeDecodeError:
            token = ""
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise RequestError(f"The token file {path} does not hold one token")
        return token


def _binding(mark: bytes, context: Mapping[str, str]) -> dict[str, str]:
    return {"context" if mark == _DERIVED else "associated_data": encode_base64(canonical_json(dict(context)))}


def _split(ciphertext: bytes) -> tuple[bytes, str]:
    for mark in (_DERIVED, _PLAIN):
        text = ciphertext.removeprefix(mark)
        if len(text) < len(ciphertext) and re.fullmatch(rb"vault:v[0-9]{1,9}:[A-Za-z0-9+/=]+", text):
            return mark, text.decode()
    raise IntegrityError("The wrapped key is none of Vault's transit engine; restore the envelope from a backup")


def _name(key_id: str) -> str:
    if not _KEY_NAME.fullmatch(key_id):
        raise RequestError(f"{key_id!r} is not the name of a transit key")
    return key_id


def _reason(answer: httpx.Response) -> str:
    """Return Vault's own words, cut short and without line breaks."""
    try:
        return " ".join(str(line) for line in answer.json()["errors"])[:200].replace("\n", " ") or "bad request"
    except (ValueError, KeyError, TypeError):
        return "bad request"
