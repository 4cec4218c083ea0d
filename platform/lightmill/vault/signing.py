"""Who said it: Ed25519 signatures (RFC 8032) over DSSE's pre-authentication encoding.

A signed file is the canonical JSON of a DSSE envelope with exactly one signature. There is one way to write
each: another spelling of the same envelope is refused, so the digest of a record is unambiguous.
Source: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lightmill.errors import IntegrityError, RequestError
from lightmill.vault.canonical import canonical_json, decode_base64, encode_base64, parse_json
from lightmill.vault.confined import Confined

COMMIT_TYPE = "application/vnd.lightmill.commit+json"
ALIAS_TYPE = "application/vnd.lightmill.alias+json"
TOMBSTONE_TYPE = "application/vnd.lightmill.tombstone+json"
ANNOTATION_TYPE = "application/vnd.lightmill.annotation+json"

MAX_SIGNED_BYTES = 16 << 20
"""The largest signed file that is read: a commit record that lists over 100,000 blobs."""

SEED_BYTES = 32


class Signer(Confined):
    """One publisher's signing key.

    Attributes:
        public_key: The raw Ed25519 public key, 32 bytes.
        key_id: The name by which verifiers know it.
    """

    __slots__ = ("_private_key", "key_id", "public_key")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise RequestError(f"A signing seed has {SEED_BYTES} bytes, this one has {len(seed)}")
        self._private_key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key_id = key_id_of(self.public_key)

    def __repr__(self) -> str:
        return f"Signer(key_id={self.key_id!r})"

    def sign(self, payload: bytes, payload_type: str) -> bytes:
        """Return the signed file that carries this payload."""
        signature = self._private_key.sign(_pre_authentication_encoding(payload_type, payload))
        return canonical_json(
            {
                "payload": encode_base64(payload),
                "payloadType": payload_type,
                "signatures": [{"keyid": self.key_id, "sig": encode_base64(signature)}],
            }
        )


def key_id_of(public_key: bytes) -> str:
    """Return the id of a raw Ed25519 public key: "ed25519:" and 32 hex characters of its SHA-256."""
    return "ed25519:" + hashlib.sha256(public_key).hexdigest()[:32]


def verify(envelope: bytes, payload_type: str, trusted: Mapping[str, bytes], *, name: str) -> tuple[bytes, str]:
    """Return the payload of a signed file and the id of the key that signed it.

    Args:
        envelope: The signed file as it was stored.
        payload_type: What the file must be; a signature for another type does not count.
        trusted: The allow-list: key id to raw public key, 32 bytes.
        name: What the error calls the file.

    Raises:
        IntegrityError: When the file is malformed or of another type, when its signer is not on the
            allow-list, or when the signature is wrong.
    """
    signed = _parse(envelope, name)
    signature = signed.signatures[0]
    if signed.payload_type != payload_type:
        raise IntegrityError(f"{name} is signed as {signed.payload_type!r}, not as {payload_type!r}; refused")
    public_key = trusted.get(signature.keyid)
    if public_key is None or key_id_of(public_key) != signature.keyid:
        raise IntegrityError(
            f"{name} is signed by {signature.keyid}, which is not a trusted publisher; "
            "add that public key to the key ring only if you know whose it is"
        )
    payload = decode_base64(signed.payload, name=name)
    message = _pre_authentication_encoding(payload_type, payload)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(decode_base64(signature.sig, name=name), message)
    except (InvalidSignature, ValueError):
        raise IntegrityError(
            f"{name} does not carry a valid signature of {signature.keyid}: it was changed after it was "
            "signed; restore it from a replica or a backup"
        ) from None
    return payload, signature.keyid


class _Signature(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    keyid: str
    sig: str


class _SignedFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    payload: str
    payload_type: Annotated[str, Field(alias="payloadType")]
    signatures: Annotated[list[_Signature], Field(min_length=1, max_length=1)]


def _parse(envelope: bytes, name: str) -> _SignedFile:
    value = parse_json(envelope, MAX_SIGNED_BYTES, name=name)
    if canonical_json(value) != envelope:
        raise IntegrityError(f"{name} is not written in canonical JSON; it was changed after it was signed")
    try:
        return _SignedFile.model_validate(value)
    except ValidationError as exc:
        raise IntegrityError(f"{name} is not a file with one DSSE signature; it is damaged") from exc


def _pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
