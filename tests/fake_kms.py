"""AWS KMS over HTTP (JSON 1.1), with the semantics that matter here and that mocks leave out.

A disabled key and one that waits for deletion refuse to encrypt, decrypt and re-encrypt; a deleted one is
unknown. The encryption context is authenticated. `fail` makes the next answers errors.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.http_fake import Answer, HttpFake, Seen

REGION = "eu-central-1"
ACCOUNT = "111122223333"


class FakeKms(HttpFake):
    """One region of one account. `keys` maps a key's ARN to its state and secret."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[str, dict[str, Any]] = {}
        self.aliases: dict[str, str] = {}
        self.denied: set[str] = set()

    def new_key(self, **metadata: Any) -> str:
        id = "-".join(secrets.token_hex(n) for n in (4, 2, 2, 2, 6))
        arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{id}"
        self.keys[arn] = {
            "secret": secrets.token_bytes(32),
            "KeyState": "Enabled",
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeySpec": "SYMMETRIC_DEFAULT",
            **metadata,
        }
        return arn

    def disable(self, arn: str) -> None:
        self.keys[arn]["KeyState"] = "Disabled"

    def enable(self, arn: str) -> None:
        self.keys[arn]["KeyState"] = "Enabled"

    def end_waiting(self, arn: str) -> None:
        """The waiting period is over: the key is gone."""
        assert self.keys[arn]["KeyState"] == "PendingDeletion"
        del self.keys[arn]

    def answer(self, seen: Seen) -> Answer:
        operation = seen.headers.get("x-amz-target", "").removeprefix("TrentService.")
        if not seen.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 Credential="):
            return _error("MissingAuthenticationTokenException", "no signature")
        call: Callable[[dict[str, Any]], Answer] | None = getattr(self, f"_{operation}", None)
        if operation in self.denied:
            return _error("AccessDeniedException", "not authorized")
        return call(json.loads(seen.body or b"{}")) if call else _error("UnknownOperationException", operation)

    def _find(self, id: str) -> str | None:
        id = self.aliases.get(id, id)
        return next((arn for arn in self.keys if id in (arn, arn.rpartition("/")[2])), None)

    def _usable(self, id: str) -> tuple[str, Answer | None]:
        arn = self._find(id)
        if arn is None:
            return "", _error("NotFoundException", f"Key '{id}' does not exist")
        state = self.keys[arn]["KeyState"]
        if state == "Disabled":
            return arn, _error("DisabledException", f"{arn} is disabled.")
        if state != "Enabled":
            return arn, _error("KMSInvalidStateException", f"{arn} is pending deletion.")
        return arn, None

    def _seal(self, arn: str, plaintext: bytes, context: dict[str, str]) -> bytes:
        nonce = secrets.token_bytes(12)
        sealed = AESGCM(self.keys[arn]["secret"]).encrypt(nonce, plaintext, _bound(arn, context))
        return base64.b64encode(json.dumps({"key": arn, "data": (nonce + sealed).hex()}).encode())

    def _open(self, blob: str, id: str, context: dict[str, str]) -> tuple[bytes, Answer | None]:
        try:
            inner = json.loads(base64.b64decode(base64.b64decode(blob)))
            named, data = inner["key"], bytes.fromhex(inner["data"])
        except (ValueError, KeyError, TypeError):
            return b"", _error("InvalidCiphertextException", "")
        arn, refusal = self._usable(id or named)
        if refusal:
            return b"", refusal
        if arn != named:
            return b"", _error("IncorrectKeyException", "The key ID does not match")
        try:
            return AESGCM(self.keys[arn]["secret"]).decrypt(data[:12], data[12:], _bound(arn, context)), None
        except (InvalidTag, ValueError):
            return b"", _error("InvalidCiphertextException", "")

    def _Encrypt(self, body: dict[str, Any]) -> Answer:
        arn, refusal = self._usable(body["KeyId"])
        if refusal:
            return refusal
        sealed = self._seal(arn, base64.b64decode(body["Plaintext"]), body.get("EncryptionContext", {}))
        return _ok({"CiphertextBlob": base64.b64encode(sealed).decode(), "KeyId": arn})

    def _Decrypt(self, body: dict[str, Any]) -> Answer:
        key, refusal = self._open(body["CiphertextBlob"], body.get("KeyId", ""), body.get("EncryptionContext", {}))
        return refusal or _ok({"Plaintext": base64.b64encode(key).decode(), "KeyId": body.get("KeyId", "")})

    def _ReEncrypt(self, body: dict[str, Any]) -> Answer:
        source = body.get("SourceEncryptionContext", {})
        key, refusal = self._open(body["CiphertextBlob"], body.get("SourceKeyId", ""), source)
        if refusal:
            return refusal
        arn, refusal = self._usable(body["DestinationKeyId"])
        if refusal:
            return refusal
        sealed = self._seal(arn, key, body.get("DestinationEncryptionContext", {}))
        return _ok({"CiphertextBlob": base64.b64encode(sealed).decode(), "KeyId": arn})

    def _DescribeKey(self, body: dict[str, Any]) -> Answer:
        arn = self._find(body["KeyId"])
        if arn is None:
            return _error("NotFoundException", "no such key")
        return _ok({"KeyMetadata": self._metadata(arn)})

    def _CreateKey(self, body: dict[str, Any]) -> Answer:
        return _ok({"KeyMetadata": self._metadata(self.new_key(Description=body.get("Description", "")))})

    def _ScheduleKeyDeletion(self, body: dict[str, Any]) -> Answer:
        arn = self._find(body["KeyId"])
        if arn is None:
            return _error("NotFoundException", "no such key")
        if self.keys[arn]["KeyState"] == "PendingDeletion":
            return _error("KMSInvalidStateException", "pending deletion already")
        days = body.get("PendingWindowInDays", 30)
        if not 7 <= days <= 30:
            return _error("ValidationException", "7 to 30 days")
        self.keys[arn] |= {"KeyState": "PendingDeletion", "DeletionDate": time.time() + days * 86400}
        return _ok({"KeyId": arn, "DeletionDate": self.keys[arn]["DeletionDate"], "KeyState": "PendingDeletion"})

    def _metadata(self, arn: str) -> dict[str, Any]:
        public = {name: value for name, value in self.keys[arn].items() if name != "secret"}
        return {"Arn": arn, "KeyId": arn.rpartition("/")[2], "Enabled": public["KeyState"] == "Enabled"} | public


def _bound(arn: str, context: dict[str, str]) -> bytes:
    return json.dumps([arn, sorted(context.items())]).encode()


def _ok(body: dict[str, Any]) -> Answer:
    return Answer(status=200, body=json.dumps(body).encode(), kind="application/x-amz-json-1.1")


def _error(code: str, message: str, status: int = 400) -> Answer:
    body = json.dumps({"__type": code, "message": message}).encode()
    return Answer(status=status, body=body, kind="application/x-amz-json-1.1")


def throttled() -> Answer:
    return _error("ThrottlingException", "Rate exceeded")


def broken() -> Answer:
    return _error("KMSInternalException", "internal", 500)
