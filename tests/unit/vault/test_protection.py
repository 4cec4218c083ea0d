"""A key ring under a passphrase: what is sealed, what is refused, and that every process finds it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightmill.errors import IntegrityError, LightmillError, NotFoundError, RequestError
from lightmill.vault import Argon2idKdf, KeyRing, Passphrase, ScryptKdf, Wrapped, asset_scope
from lightmill.vault.passphrase import PASSPHRASE_FILE
from lightmill.vault.receipts import TRAIL_FILE, AuditTrail
from tests.unit.vault import reference
from tests.unit.vault.test_keyring import CONTEXT, secrets_of

WORDS = Passphrase("correct horse battery staple")
QUICK = Argon2idKdf.fresh(memory_kib=8192, iterations=1, lanes=1)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE_FILE, raising=False)


def passphrase_file(folder: Path, text: str = "correct horse battery staple\n", mode: int = 0o600) -> Path:
    path = folder / "passphrase"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("kdf", [None, ScryptKdf.fresh(), QUICK], ids=["argon2id", "scrypt", "quick"])
def test_a_protected_ring_shows_no_secret_and_opens_again(ring: KeyRing, kdf: Any) -> None:
    hidden = secrets_of(ring.path)
    wrapped = ring.provider.wrap(b"k" * 32, CONTEXT)
    ring.protect(WORDS, kdf)
    text = ring.path.read_text()
    assert not [secret for secret in hidden if secret in text]
    value = json.loads(text)
    assert value["format"] == 2 and "secrets" not in value
    if kdf is None:
        assert {k: v for k, v in value["protection"].items() if k != "salt"} == {
            "kind": "argon2id",
            "memory_kib": 65536,
            "iterations": 3,
            "lanes": 4,
        }
    again = KeyRing.open(ring.path, WORDS)
    assert again.provider.unwrap(wrapped, CONTEXT) == b"k" * 32 and again.signer.key_id == ring.signer.key_id
    again.unprotect()
    assert sorted(secrets_of(ring.path)) == sorted(hidden)
    assert json.loads(ring.path.read_text())["format"] == 1


def test_the_sealed_form_is_what_the_document_says(ring: KeyRing) -> None:
    name_key = ring.workspace_name_key("default")
    kdf = ScryptKdf.fresh(log2_n=14)
    ring.protect(WORDS, kdf)
    value = json.loads(ring.path.read_text())
    salt = base64.b64decode(kdf.salt)
    key = hashlib.scrypt(b"correct horse battery staple", salt=salt, n=1 << 14, r=8, p=1, maxmem=1 << 25, dklen=32)
    material = reference.hkdf(key, b"", b"lmring1\0" + value["ring_id"].encode(), 64)
    sealed = base64.b64decode(value.pop("sealed"))
    public = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert sealed[:32] == material[32:]
    plain = json.loads(AESGCM(material[:32]).decrypt(sealed[32:44], sealed[44:], public))
    assert base64.b64decode(plain["name_keys"]["default"]) == name_key


def test_a_wrong_or_missing_passphrase_is_refused(ring: KeyRing) -> None:
    ring.protect(WORDS, QUICK)
    with pytest.raises(RequestError, match=PASSPHRASE_FILE):
        KeyRing.open(ring.path)
    with pytest.raises(RequestError, match="does not open with this passphrase"):
        KeyRing.open(ring.path, Passphrase("correct horse battery stapler"))


def test_changes_keep_the_protection(ring: KeyRing) -> None:
    ring.protect(WORDS, QUICK)
    other = KeyRing.open(ring.path, WORDS)
    other.add_workspace("second")
    other.add_root_key(asset_scope("default", "a" * 26))
    assert ring.workspaces == ("default", "second") and ring.protection == "argon2id"
    sealed = {json.loads(ring.path.read_text())["sealed"]}
    for number in range(5):
        other.add_workspace(f"w{number}")
        sealed.add(json.loads(ring.path.read_text())["sealed"][44:60])
    assert len(sealed) == 6


def test_the_passphrase_comes_from_a_private_file(
    ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring.protect(WORDS, QUICK)
    path = passphrase_file(tmp_path)
    monkeypatch.setenv(PASSPHRASE_FILE, str(path))
    assert KeyRing.open(ring.path).workspaces == ("default",)
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(RequestError, match="chmod 600"):
            KeyRing.open(ring.path)
    path.chmod(0o600)
    for text in ("", "\n", "x" * 2000):
        path.write_text(text)
        with pytest.raises(RequestError):
            KeyRing.open(ring.path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(RequestError, match="UTF-8"):
        KeyRing.open(ring.path)
    path.unlink()
    with pytest.raises(NotFoundError):
        KeyRing.open(ring.path)


def test_another_process_opens_it_by_its_environment(ring: KeyRing, tmp_path: Path) -> None:
    wrapped = ring.provider.wrap(b"k" * 32, CONTEXT)
    ring.protect(WORDS, QUICK)
    code = (
        "import sys; from lightmill.vault import KeyRing, Wrapped\n"
        f"ring = KeyRing.open({str(ring.path)!r})\n"
        f"w = Wrapped(provider={wrapped.provider!r}, key_id={wrapped.key_id!r}, ciphertext={wrapped.ciphertext!r})\n"
        f"print(ring.provider.unwrap(w, {CONTEXT!r}) == b'k' * 32)"
    )
    environment = os.environ | {PASSPHRASE_FILE: str(passphrase_file(tmp_path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_a_new_passphrase_is_long_enough(ring: KeyRing) -> None:
    with pytest.raises(RequestError, match="12 characters"):
        ring.protect(Passphrase("short"), QUICK)
    assert ring.protection == "none"


def test_an_open_ring_follows_the_file(ring: KeyRing) -> None:
    other = KeyRing.open(ring.path)
    key_id = other.add_root_key()
    assert ring.provider.key_id == key_id
    other.protect(WORDS, QUICK)
    other.add_workspace("later")
    with pytest.raises(RequestError, match="protected by a passphrase"):
        ring.provider.wrap(b"k" * 32, CONTEXT)
    moved = ring.path.with_name("moved")
    ring.path.rename(moved)
    assert other.provider.key_id == key_id
    moved.rename(ring.path)
    other.unprotect()
    assert ring.workspaces == ("default", "later")


BOUNDS: list[dict[str, Any]] = [
    {"kind": "argon2id", "memory_kib": 1 << 21, "iterations": 3, "lanes": 4, "salt": QUICK.salt},
    {"kind": "argon2id", "memory_kib": 65536, "iterations": 10**9, "lanes": 4, "salt": QUICK.salt},
    {"kind": "argon2id", "memory_kib": 65536, "iterations": 3, "lanes": 10**6, "salt": QUICK.salt},
    {"kind": "argon2id", "memory_kib": 1, "iterations": 3, "lanes": 4, "salt": QUICK.salt},
    {"kind": "argon2id", "memory_kib": 65536, "iterations": 3, "lanes": 4, "salt": ""},
    {"kind": "scrypt", "log2_n": 40, "r": 8, "p": 1, "salt": QUICK.salt},
    {"kind": "scrypt", "log2_n": 4, "r": 8, "p": 1, "salt": QUICK.salt},
    {"kind": "scrypt", "log2_n": 20, "r": 32, "p": 1, "salt": QUICK.salt},
    {"kind": "scrypt", "log2_n": 16, "r": 8, "p": 10**6, "salt": QUICK.salt},
    {"kind": "pbkdf2", "iterations": 1, "salt": QUICK.salt},
    {"kind": "service", "provider": "aws-kms:eu", "key_id": "k", "wrapped": "A" * 100_000},
]


@pytest.mark.parametrize("protection", BOUNDS, ids=range(len(BOUNDS)))
def test_parameters_out_of_bounds_are_refused_before_any_work(ring: KeyRing, protection: dict[str, Any]) -> None:
    ring.protect(WORDS, QUICK)
    value = json.loads(ring.path.read_text()) | {"protection": protection}
    ring.path.write_text(json.dumps(value))
    with pytest.raises(IntegrityError, match="not a key ring"):
        KeyRing.open(ring.path, WORDS)


def test_every_edit_of_a_protected_ring_is_refused(ring: KeyRing) -> None:
    intruder = KeyRing.create(ring.path.with_name("intruder.json"))
    ring.add_root_key(asset_scope("default", "a" * 26))
    hidden = secrets_of_any(ring)
    ring.protect(WORDS, QUICK)
    good = ring.path.read_bytes()
    value = json.loads(good)
    head, tail = value["sealed"][:60], value["sealed"][60:]
    edits: list[dict[str, Any]] = [
        {"trusted": value["trusted"] | {intruder.signer.key_id: base64.b64encode(intruder.signer.public_key).decode()}},
        {"keys": value["keys"][:1]},
        {"keys": [value["keys"][0] | {"scope": "asset:x/" + "a" * 26}, value["keys"][1]]},
        {"services": {"aws-kms:eu-1": {"kind": "aws-kms", "region": "eu-1", "endpoint": "http://evil"}}},
        {"ring_id": "0" * 16},
        {"sealed": value["sealed"][:-8]},
        {"sealed": ""},
        {"sealed": head + ("A" if tail[0] != "A" else "B") + tail[1:]},
        {"secrets": {"root_keys": {}, "name_keys": {}, "signing_seed": "A" * 43 + "="}},
        {"protection": None},
        {"trail": {"n": 1, "digest": "0" * 64}},
        {"extra": 1},
        {"format": 3},
    ]
    for edit in edits:
        ring.path.write_text(json.dumps(value | edit))
        with pytest.raises(LightmillError) as refused:
            KeyRing.open(ring.path, WORDS)
        assert isinstance(refused.value, IntegrityError | RequestError)
        text = "".join(traceback.format_exception(refused.value))
        assert not [secret for secret in hidden if secret in text]
    ring.path.write_bytes(good)
    KeyRing.open(ring.path, WORDS)


def secrets_of_any(ring: KeyRing) -> list[str]:
    value = json.loads(ring.path.read_text())
    inner = value.get("secrets", value)
    texts = [*inner["root_keys"].values(), *inner["name_keys"].values(), inner["signing_seed"]]
    return texts + [base64.b64decode(text).hex() for text in texts]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_ring_with_any_byte_changed_never_opens_as_another(ring: KeyRing, data: st.DataObject) -> None:
    if ring.protection == "none":
        ring.protect(WORDS, Argon2idKdf.fresh(memory_kib=8192, iterations=1, lanes=1))
    good = ring.path.with_name("good")
    if not good.exists():
        good.write_bytes(ring.path.read_bytes())
    raw = bytearray(good.read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    copy = ring.path.with_name("copy.json")
    copy.write_bytes(raw)
    copy.chmod(0o600)
    with pytest.raises(LightmillError):
        KeyRing.open(copy, WORDS)


VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "key_rings.json").read_text())


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_frozen_key_rings_open_for_ever(tmp_path: Path, case: dict[str, Any]) -> None:
    path = tmp_path / "ring.json"
    path.write_text(case["file"])
    path.chmod(0o600)
    trail = tmp_path / TRAIL_FILE
    trail.write_text(VECTORS["trail"])
    trail.chmod(0o600)
    ring = KeyRing.open(path, Passphrase(case["passphrase"]) if case["passphrase"] else None)
    ciphertext = base64.b64decode(case["wrapped"])
    wrapped = Wrapped(provider=case["provider"], key_id=case["key_id"], ciphertext=ciphertext)
    assert ring.provider.unwrap(wrapped, VECTORS["context"]).hex() == VECTORS["key"]
    assert ring.asset_id("default", "model", "m") == VECTORS["asset_id"] and ring.signer.key_id == VECTORS["signer"]
    assert [receipt.action for receipt in AuditTrail(ring).read()] == ["isolate", "rotate"]
    ring.add_workspace("third")
    assert KeyRing.open(path, Passphrase(case["passphrase"] or "unused")).workspaces[-1] == "third"


@pytest.mark.slow
def test_a_flipped_bit_in_every_byte_of_a_protected_ring_is_refused(ring: KeyRing) -> None:
    ring.add_root_key(asset_scope("default", "a" * 26))
    ring.protect(WORDS, QUICK)
    good, copy, cases = ring.path.read_bytes(), ring.path.with_name("copy.json"), 0
    copy.touch(0o600)
    for position in range(len(good)):
        changed = bytearray(good)
        changed[position] ^= 1 << position % 8
        copy.write_bytes(changed)
        with pytest.raises(LightmillError):
            KeyRing.open(copy, WORDS)
        cases += 1
    print(f"key ring: a flipped bit in each of {cases} bytes refused")
