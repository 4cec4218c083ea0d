from __future__ import annotations

import base64
import copy
import hashlib
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightmill.errors import IntegrityError, RequestError
from lightmill.vault import ALIAS_TYPE, COMMIT_TYPE, TOMBSTONE_TYPE, Signer, canonical_json, key_id_of, verify
from tests.unit.vault import reference

SEED = bytes(range(32))
ALICE = Signer(SEED)
MALLORY = Signer(bytes(32))
TRUSTED = {ALICE.key_id: ALICE.public_key}
PAYLOAD = canonical_json({"format": 1, "seq": 7})
FILE = ALICE.sign(PAYLOAD, COMMIT_TYPE)


def refusal(file: bytes, payload_type: str = COMMIT_TYPE, trusted: dict[str, bytes] | None = None) -> str:
    with pytest.raises(IntegrityError) as refused:
        verify(file, payload_type, TRUSTED if trusted is None else trusted, name="r/x/v/7")
    assert "r/x/v/7" in str(refused.value)
    return str(refused.value)


def test_what_is_signed_verifies() -> None:
    assert verify(FILE, COMMIT_TYPE, TRUSTED, name="r/x/v/7") == (PAYLOAD, ALICE.key_id)
    assert ALICE.key_id == "ed25519:" + hashlib.sha256(ALICE.public_key).hexdigest()[:32]


def test_a_stranger_is_refused_by_name() -> None:
    assert MALLORY.key_id in refusal(MALLORY.sign(PAYLOAD, COMMIT_TYPE))
    refusal(FILE, trusted={})


@pytest.mark.parametrize("payload_type", [ALIAS_TYPE, TOMBSTONE_TYPE, "", COMMIT_TYPE + "2"])
def test_a_signature_for_one_type_does_not_count_for_another(payload_type: str) -> None:
    assert "signed as" in refusal(FILE, payload_type)
    retyped = json.loads(FILE) | {"payloadType": payload_type}
    refusal(canonical_json(retyped), payload_type)


def test_every_flipped_bit_is_refused() -> None:
    for position in range(len(FILE)):
        for bit in (0, 2, 5):
            damaged = bytearray(FILE)
            damaged[position] ^= 1 << bit
            refusal(bytes(damaged))


def _forge_key_id(value: dict[str, Any]) -> None:
    forged = json.loads(MALLORY.sign(PAYLOAD, COMMIT_TYPE))
    value["signatures"] = forged["signatures"]
    value["signatures"][0]["keyid"] = ALICE.key_id


def _sign_without_encoding(value: dict[str, Any]) -> None:
    """The payload alone is signed, without its type and the lengths."""
    signature = Ed25519PrivateKey.from_private_bytes(SEED).sign(PAYLOAD)
    value["signatures"][0]["sig"] = base64.b64encode(signature).decode()


def _shift_signature(value: dict[str, Any]) -> None:
    """S + L instead of S: the same equation holds, RFC 8032 forbids it."""
    order = 2**252 + 27742317777372353535851937790883648493
    raw = base64.b64decode(value["signatures"][0]["sig"])
    scalar = (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    value["signatures"][0]["sig"] = base64.b64encode(raw[:32] + scalar).decode()


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "another payload": lambda v: v.update(payload=base64.b64encode(b'{"seq":8}').decode()),
    "an empty payload": lambda v: v.update(payload=""),
    "a loose base64": lambda v: v.update(payload=v["payload"].rstrip("=")),
    "no signature": lambda v: v.update(signatures=[]),
    "two signatures": lambda v: v.update(signatures=v["signatures"] * 2),
    "an empty signature": lambda v: v["signatures"][0].update(sig=""),
    "a zero signature": lambda v: v["signatures"][0].update(sig=base64.b64encode(bytes(64)).decode()),
    "a surplus field": lambda v: v.update(comment="hello"),
    "a surplus field beside the signature": lambda v: v["signatures"][0].update(comment="hello"),
    "a number as key id": lambda v: v["signatures"][0].update(keyid=1),
    "a payload that is no text": lambda v: v.update(payload=None),
    "a missing type": lambda v: v.pop("payloadType"),
    "a forged key id": _forge_key_id,
    "no pre-authentication encoding": _sign_without_encoding,
    "a shifted signature": _shift_signature,
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_edited_files_are_refused(edit: Callable[[dict[str, Any]], object]) -> None:
    value = copy.deepcopy(json.loads(FILE))
    edit(value)
    refusal(canonical_json(value))


def test_another_spelling_of_the_same_file_is_refused() -> None:
    refusal(json.dumps(json.loads(FILE)).encode())
    refusal(FILE + b"\n")
    refusal(FILE.replace(b'{"payload":', b'{"payload":"e30=","payload":'))


def test_a_key_listed_under_a_foreign_id_is_not_trusted() -> None:
    forged = json.loads(MALLORY.sign(PAYLOAD, COMMIT_TYPE))
    forged["signatures"][0]["keyid"] = ALICE.key_id
    refusal(canonical_json(forged), trusted={ALICE.key_id: MALLORY.public_key})


def test_lengths_in_the_encoding_keep_type_and_payload_apart() -> None:
    assert reference.pae("a b", b"c") != reference.pae("a", b"b c")
    assert key_id_of(ALICE.public_key) != key_id_of(MALLORY.public_key)


def test_a_signer_neither_shows_nor_sends_its_seed() -> None:
    assert SEED.hex() not in repr(ALICE) and "Signer(key_id=" in repr(ALICE)
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"KeyRing\.open"):
            leave(ALICE)


def test_a_seed_has_32_bytes() -> None:
    with pytest.raises(RequestError, match="32 bytes"):
        Signer(b"short")
