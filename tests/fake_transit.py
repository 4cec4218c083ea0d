"""HashiCorp Vault's transit engine over HTTP, with its rules for derived keys, versions, deletion and tokens.

As in Vault: rewrap takes no associated data; encrypting under an unknown name needs the right to create;
a key is deleted only after its configuration allows it; a sealed Vault answers 503.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.http_fake import Answer, HttpFake, Seen

TOKEN = "hvs.canaryvaulttoken0123456789"


class FakeTransit(HttpFake):
    """One engine at `transit/`. `keys` maps a name to its type, whether it derives, and its versions."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[str, dict[str, Any]] = {}
        self.sealed = False

    def new_key(self, name: str = "root", *, derived: bool = True, type: str = "aes256-gcm96") -> str:
        self.keys[name] = {
            "type": type,
            "derived": derived,
            "versions": [secrets.token_bytes(32)],
            "deletion_allowed": False,
            "min_decryption_version": 1,
        }
        return name

    def rotate(self, name: str, *, forget: bool = False) -> None:
        self.keys[name]["versions"].append(secrets.token_bytes(32))
        if forget:
            self.keys[name]["min_decryption_version"] = len(self.keys[name]["versions"])

    def answer(self, seen: Seen) -> Answer:
        if self.sealed:
            return _error(503, "Vault is sealed")
        if seen.headers.get("x-vault-token") != TOKEN:
            return _error(403, "permission denied")
        parts = seen.path.strip("/").split("/")
        if parts[:2] != ["v1", "transit"] or len(parts) < 4:
            return _error(404, "no handler for route")
        body = json.loads(seen.body or b"{}")
        if parts[2] == "keys":
            return self._keys(seen.method, parts[3], parts[4:], body)
        if seen.method != "POST" or parts[2] not in ("encrypt", "decrypt", "rewrap"):
            return _error(405, "unsupported operation")
        return getattr(self, f"_{parts[2]}")(parts[3], body)

    def _keys(self, method: str, name: str, rest: list[str], body: dict[str, Any]) -> Answer:
        if method == "POST" and rest == ["config"]:
            self.keys[name] |= body
            return Answer(status=204)
        if method == "POST" and not rest:
            if name not in self.keys:
                self.new_key(name, derived=body.get("derived", False), type=body.get("type", "aes256-gcm96"))
            return Answer(status=204)
        if name not in self.keys:
            return _error(404)
        if method == "DELETE":
            if not self.keys[name]["deletion_allowed"]:
                return _error(400, "deletion is not allowed for this key")
            del self.keys[name]
            return Answer(status=204)
        public = {n: v for n, v in self.keys[name].items() if n != "versions"}
        return _data(public | {"latest_version": len(self.keys[name]["versions"])})

    def _encrypt(self, name: str, body: dict[str, Any]) -> Answer:
        if name not in self.keys:
            return _error(403, "permission denied")  # the token may update keys and not create them
        if self.keys[name]["derived"] and not body.get("context"):
            return _error(400, "missing 'context' for key derivation; the key was created using a derived key")
        return _data({"ciphertext": self._seal(name, base64.b64decode(body["plaintext"]), body)})

    def _decrypt(self, name: str, body: dict[str, Any]) -> Answer:
        plaintext, refusal = self._unseal(name, body)
        return refusal or _data({"plaintext": base64.b64encode(plaintext).decode()})

    def _rewrap(self, name: str, body: dict[str, Any]) -> Answer:
        body = {part: value for part, value in body.items() if part != "associated_data"}
        plaintext, refusal = self._unseal(name, body)
        return refusal or _data({"ciphertext": self._seal(name, plaintext, body)})

    def _cipher(self, name: str, version: int, body: dict[str, Any]) -> AESGCM:
        key = self.keys[name]["versions"][version - 1]
        if self.keys[name]["derived"]:
            key = hmac.digest(key, base64.b64decode(body.get("context", "")), hashlib.sha256)
        return AESGCM(key)

    def _seal(self, name: str, plaintext: bytes, body: dict[str, Any]) -> str:
        version, nonce = len(self.keys[name]["versions"]), secrets.token_bytes(12)
        extra = base64.b64decode(body.get("associated_data", ""))
        sealed = nonce + self._cipher(name, version, body).encrypt(nonce, plaintext, extra)
        return f"vault:v{version}:{base64.b64encode(sealed).decode()}"

    def _unseal(self, name: str, body: dict[str, Any]) -> tuple[bytes, Answer | None]:
        if name not in self.keys:
            return b"", _error(400, "encryption key not found")
        try:
            _, version, text = body["ciphertext"].split(":")
            number, data = int(version.removeprefix("v")), base64.b64decode(text)
        except ValueError:
            return b"", _error(400, "invalid ciphertext: no prefix")
        if not self.keys[name]["min_decryption_version"] <= number <= len(self.keys[name]["versions"]):
            return b"", _error(400, "ciphertext or signature version is disallowed by policy (too old)")
        extra = base64.b64decode(body.get("associated_data", ""))
        try:
            return self._cipher(name, number, body).decrypt(data[:12], data[12:], extra), None
        except (InvalidTag, ValueError):
            return b"", _error(400, "cipher: message authentication failed")


def _data(data: dict[str, Any]) -> Answer:
    return Answer(status=200, body=json.dumps({"request_id": secrets.token_hex(8), "data": data}).encode())


def _error(status: int, *errors: str) -> Answer:
    return Answer(status=status, body=json.dumps({"errors": list(errors)}).encode())
