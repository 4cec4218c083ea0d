"""A second implementation of docs/format.md, written from the text; it shares nothing with ours.

HKDF comes from the standard library's hmac; AES-GCM and Ed25519 are called in their plainest form.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, word for word."""
    prk = hmac.new(salt or bytes(32), key, hashlib.sha256).digest()
    output = block = b""
    counter = 1
    while len(output) < length:
        block = hmac.new(prk, block + info + bytes([counter]), hashlib.sha256).digest()
        output += block
        counter += 1
    return output[:length]


def dumps(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def seal(plaintext: bytes, key: bytes, kind: bytes, store_id: str, workspace: str, log2: int, salt: bytes) -> bytes:
    material = hkdf(key, salt, b"lmblob1\0" + kind + store_id.encode() + workspace.encode(), 64)
    header = b"LMBLOB1\0" + (1).to_bytes(2, "little") + bytes([log2, 0]) + len(plaintext).to_bytes(8, "little")
    header += salt + material[32:] + bytes(44)
    step = 1 << log2
    pieces = [plaintext[at : at + step] for at in range(0, len(plaintext), step)] or [b""]
    cipher = AESGCM(material[:32])
    for index, piece in enumerate(pieces):
        nonce = bytes(7) + index.to_bytes(4, "little") + bytes([index == len(pieces) - 1])
        header_and_segment = cipher.encrypt(nonce, piece, header[:128])
        pieces[index] = header_and_segment
    return header + b"".join(pieces)


def unseal(data: bytes, key: bytes, kind: bytes, store_id: str, workspace: str) -> bytes:
    header, body = data[:128], data[128:]
    log2, length, salt = header[10], int.from_bytes(header[12:20], "little"), header[20:52]
    material = hkdf(key, salt, b"lmblob1\0" + kind + store_id.encode() + workspace.encode(), 64)
    assert header[:8] == b"LMBLOB1\0" and header[8:10] == b"\1\0" and header[11] == 0
    assert header[52:84] == material[32:] and header[84:] == bytes(44)
    step = (1 << log2) + 16
    parts = [body[at : at + step] for at in range(0, len(body), step)]
    cipher = AESGCM(material[:32])
    plain = b""
    for index, part in enumerate(parts):
        nonce = bytes(7) + index.to_bytes(4, "little") + bytes([index == len(parts) - 1])
        plain += cipher.decrypt(nonce, part, header)
    assert len(plain) == length
    return plain


def wrap(root_key: bytes, key: bytes, context: dict[str, str], salt: bytes, nonce: bytes) -> bytes:
    cipher = AESGCM(hkdf(root_key, salt, b"lmwrap1\0" + dumps(context), 32))
    return salt + nonce + cipher.encrypt(nonce, key, dumps(context))


def unwrap(root_key: bytes, wrapped: bytes, context: dict[str, str]) -> bytes:
    cipher = AESGCM(hkdf(root_key, wrapped[:32], b"lmwrap1\0" + dumps(context), 32))
    return cipher.decrypt(wrapped[32:44], wrapped[44:], dumps(context))


def envelope(key: bytes, provider: str, key_id: str, wrapped: bytes, context: dict[str, str], rot: int) -> bytes:
    fields = {
        "format": 1,
        "provider": provider,
        "key_id": key_id,
        "wrapped": base64.b64encode(wrapped).decode(),
        "context": context,
        "rot": rot,
    }
    mac = hmac.new(hkdf(key, b"", b"lmenv1\0", 32), dumps(fields), hashlib.sha256).hexdigest()
    return dumps({**fields, "mac": mac})


def pae(payload_type: str, payload: bytes) -> bytes:
    return b" ".join(
        [
            b"DSSEv1",
            str(len(payload_type)).encode(),
            payload_type.encode(),
            str(len(payload)).encode(),
            payload,
        ]
    )


def sign(seed: bytes, payload: bytes, payload_type: str) -> bytes:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = {
        "keyid": "ed25519:" + hashlib.sha256(public).hexdigest()[:32],
        "sig": base64.b64encode(private.sign(pae(payload_type, payload))).decode(),
    }
    body = base64.b64encode(payload).decode()
    return dumps({"payload": body, "payloadType": payload_type, "signatures": [signature]})


def check_signature(file: bytes, public_key: bytes) -> bytes:
    value = json.loads(file)
    payload = base64.b64decode(value["payload"])
    signature = base64.b64decode(value["signatures"][0]["sig"])
    Ed25519PublicKey.from_public_bytes(public_key).verify(signature, pae(value["payloadType"], payload))
    return payload


def mid(name_key: bytes, kind: str, name: str) -> str:
    digest = hmac.new(name_key, kind.encode() + b"\0" + name.encode(), hashlib.sha256).digest()
    return base64.b32encode(digest).decode().lower()[:26]


def dedup_key(name_key: bytes, asset: str) -> bytes:
    return hkdf(name_key, b"", b"lmdedup1\0" + asset.encode(), 32)


def parquet_key(version_key: bytes, name: str) -> bytes:
    return hkdf(version_key, b"", b"lmparquet1\0" + name.encode(), 32)


def fingerprint(key: bytes, data: bytes) -> str:
    return blake3(data, key=key).hexdigest()


def pattern(length: int) -> bytes:
    """The plaintext of the long vectors: 0, 1, ... 250, 0, 1, ..."""
    return (bytes(range(251)) * (length // 251 + 1))[:length]
