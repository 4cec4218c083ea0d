"""Frozen bytes, readable for ever, checked in both directions against a second implementation."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from lightmill.vault import (
    BlobContext,
    Signer,
    asset_id,
    dedup_key,
    fingerprinter,
    key_id_of,
    open_blob,
    parquet_key,
    seal_blob,
    verify,
)
from lightmill.vault.local_provider import unwrap_key, wrap_key
from lightmill.vault.wrapping import KeyProvider, Wrapped, open_envelope, seal_envelope
from tests.unit.vault import reference

VECTORS = Path(__file__).parents[2] / "vectors"


def cases(file: str, key: str = "cases") -> list[dict[str, Any]]:
    return json.loads((VECTORS / file).read_text())[key]


@pytest.mark.parametrize("case", cases("blob.json"))
def test_a_frozen_blob_is_sealed_and_opened_byte_for_byte(case: dict[str, Any]) -> None:
    kind, store_id, workspace = case["kind"].encode(), case["store_id"], case["workspace"]
    key, salt, log2 = bytes.fromhex(case["key"]), bytes.fromhex(case["salt"]), case["log2_segment"]
    context = BlobContext(kind=kind, store_id=store_id, workspace=workspace)
    long = "pattern_bytes" in case
    plaintext = reference.pattern(case["pattern_bytes"]) if long else bytes.fromhex(case["plaintext"])

    ours = bytes(seal_blob(plaintext, key, context, segment_bytes=1 << log2, salt=salt))
    theirs = reference.seal(plaintext, key, kind, store_id, workspace, log2, salt)

    assert ours == theirs
    if long:
        assert ours[:128].hex() == case["header"]
        assert hashlib.sha256(ours).hexdigest() == case["blob_sha256"]
    else:
        assert ours.hex() == case["blob"]
    assert open_blob(theirs, key, context, len(plaintext)) == plaintext
    assert reference.unseal(ours, key, kind, store_id, workspace) == plaintext


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 200_000])
def test_a_random_blob_is_read_by_the_other_implementation(size: int) -> None:
    key, store_id = bytes(range(32)), "ab" * 16
    context = BlobContext.for_data(store_id, "default")
    sealed = seal_blob(reference.pattern(size), key, context, segment_bytes=1 << 16)
    assert reference.unseal(bytes(sealed), key, b"data", store_id, "default") == reference.pattern(size)


class OneKey(KeyProvider):
    """A key service with one root key and a fixed salt."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case
        self.root_key = bytes.fromhex(case["root_key"])

    @property
    def uri(self) -> str:
        return self.case["provider"]

    @property
    def key_id(self) -> str:
        return self.case["key_id"]

    def wrap(self, key: bytes, context: Any) -> Wrapped:
        salt, nonce = bytes.fromhex(self.case["salt"]), bytes.fromhex(self.case["nonce"])
        ciphertext = wrap_key(self.root_key, key, context, salt=salt, nonce=nonce)
        return Wrapped(provider=self.uri, key_id=self.key_id, ciphertext=ciphertext)

    def unwrap(self, wrapped: Wrapped, context: Any) -> bytes:
        return unwrap_key(self.root_key, wrapped.ciphertext, context)

    def rewrap(self, wrapped: Wrapped, context: Any) -> Wrapped:
        return wrapped

    def health(self) -> None:
        return


@pytest.mark.parametrize("case", cases("envelope.json"))
def test_a_frozen_envelope_is_sealed_and_opened_byte_for_byte(case: dict[str, Any]) -> None:
    provider, context = OneKey(case), case["context"]
    key, wrapped = bytes.fromhex(case["version_key"]), bytes.fromhex(case["wrapped"])
    salt, nonce = bytes.fromhex(case["salt"]), bytes.fromhex(case["nonce"])

    assert reference.wrap(provider.root_key, key, context, salt, nonce) == wrapped
    assert reference.unwrap(provider.root_key, provider.wrap(key, context).ciphertext, context) == key
    ours = seal_envelope(key, provider, context, rot=case["rot"])
    assert ours.decode() == case["envelope"]
    assert ours == reference.envelope(key, case["provider"], case["key_id"], wrapped, context, case["rot"])
    assert open_envelope(case["envelope"].encode(), provider, context, rot=case["rot"]) == key


@pytest.mark.parametrize("case", cases("signed.json"))
def test_a_frozen_signed_file_is_written_and_verified_byte_for_byte(case: dict[str, Any]) -> None:
    signer = Signer(bytes.fromhex(case["seed"]))
    public_key, payload = bytes.fromhex(case["public_key"]), bytes.fromhex(case["payload"])
    trusted = {key_id_of(public_key): public_key}

    assert signer.public_key == public_key
    assert signer.sign(payload, case["payload_type"]).decode() == case["file"]
    assert reference.check_signature(case["file"].encode(), public_key) == payload
    theirs = reference.sign(bytes.fromhex(case["seed"]), payload, case["payload_type"])
    assert verify(theirs, case["payload_type"], trusted, name="r/x") == (payload, signer.key_id)


def test_the_pre_authentication_encoding_is_the_published_one() -> None:
    # The example of the DSSE specification.
    encoded = reference.pae("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@pytest.mark.parametrize("case", cases("derived.json", "names"))
def test_frozen_names_and_fingerprints(case: dict[str, Any]) -> None:
    name_key, piece = bytes.fromhex(case["name_key"]), bytes.fromhex(case["piece"])
    assert asset_id(name_key, case["kind"], case["name"]) == case["mid"]
    assert reference.mid(name_key, case["kind"], case["name"]) == case["mid"]
    assert dedup_key(name_key, case["mid"]).hex() == case["dedup_key"]
    assert reference.dedup_key(name_key, case["mid"]).hex() == case["dedup_key"]
    assert fingerprinter(bytes.fromhex(case["dedup_key"]), piece).hexdigest() == case["fingerprint"]


@pytest.mark.parametrize("case", cases("derived.json", "parquet"))
def test_frozen_parquet_keys(case: dict[str, Any]) -> None:
    version_key = bytes.fromhex(case["version_key"])
    assert parquet_key(version_key, case["key_name"]).hex() == case["key"]
    assert reference.parquet_key(version_key, case["key_name"]).hex() == case["key"]
