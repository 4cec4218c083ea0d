"""What every key provider promises, on each: the local ring (plain and protected), AWS KMS and Vault transit.

The remote ones are fakes that speak the real protocols over real sockets. moto is asked about the API's shape
only: its KMS decrypts with disabled keys, in any context, and knows keys to delete by one of their names.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lightmill.errors import ErasedError, IntegrityError, RequestError, UnavailableError
from lightmill.vault import (
    Argon2idKdf,
    AwsKmsSettings,
    Erasure,
    KeyRing,
    Passphrase,
    VaultTransitSettings,
    Wrapped,
    asset_scope,
    open_envelope,
    rewrap_envelope,
    seal_envelope,
    workspace_scope,
)
from tests.fake_kms import REGION, FakeKms, broken, throttled
from tests.fake_transit import TOKEN, FakeTransit
from tests.http_fake import Answer

CONTEXT = {"store": "0" * 32, "workspace": "default", "mid": "a" * 26, "seq": "1"}
KEY = bytes(range(32))
WORDS = "correct horse battery staple"


@dataclass(kw_only=True)
class Case:
    ring: KeyRing
    fake: Any = None


def local(folder: Path) -> Iterator[Case]:
    yield Case(ring=KeyRing.create(folder / "keys" / "ring.json"))


def protected(folder: Path) -> Iterator[Case]:
    ring = KeyRing.create(folder / "keys" / "ring.json")
    ring.protect(Passphrase(WORDS), Argon2idKdf.fresh(memory_kib=8192, iterations=1))
    yield Case(ring=KeyRing.open(ring.path, Passphrase(WORDS)))


def kms(folder: Path) -> Iterator[Case]:
    pytest.importorskip("boto3", reason="the extra `aws` is not installed")
    with FakeKms() as fake:
        ring = KeyRing.create(folder / "keys" / "ring.json")
        uri = ring.add_service(AwsKmsSettings(region=REGION, endpoint=fake.url))
        ring.add_root_key(service=uri, key_id=fake.new_key())
        yield Case(ring=ring, fake=fake)


def transit(folder: Path, *, derived: bool = True) -> Iterator[Case]:
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    with FakeTransit() as fake:
        ring = KeyRing.create(folder / "keys" / "ring.json")
        uri = ring.add_service(VaultTransitSettings(url=fake.url, token_file=str(token)))
        ring.add_root_key(service=uri, key_id=fake.new_key(derived=derived))
        yield Case(ring=ring, fake=fake)


def transit_plain(folder: Path) -> Iterator[Case]:
    yield from transit(folder, derived=False)


MAKERS = {
    "local": local,
    "passphrase": protected,
    "aws-kms": kms,
    "vault-transit": transit,
    "vault-transit, not derived": transit_plain,
}
REMOTE = ["aws-kms", "vault-transit", "vault-transit, not derived"]


@pytest.fixture(params=list(MAKERS))
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "LIGHTMILL_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFAKEFAKEFAKEFAKE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canarysecretaccesskey")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield from MAKERS[request.param](tmp_path)


remote = pytest.mark.parametrize("case", REMOTE, indirect=True)


def test_a_key_unwraps_in_its_context_only(case: Case) -> None:
    provider = case.ring.provider
    wrapped = provider.wrap(KEY, CONTEXT)
    assert KEY not in wrapped.ciphertext and (wrapped.provider, wrapped.key_id) == (provider.uri, provider.key_id)
    assert provider.target(CONTEXT) == (provider.uri, provider.key_id)
    assert provider.unwrap(wrapped, dict(reversed(CONTEXT.items()))) == KEY
    for name in CONTEXT:
        for other in (CONTEXT | {name: "other"}, {k: v for k, v in CONTEXT.items() if k != name}):
            with pytest.raises(IntegrityError):
                provider.unwrap(wrapped, other)
    assert len({provider.wrap(KEY, CONTEXT).ciphertext for _ in range(8)}) == 8
    provider.health()


def test_changed_bytes_and_foreign_keys_are_refused(case: Case) -> None:
    provider = case.ring.provider
    wrapped = provider.wrap(KEY, CONTEXT)
    texts = [wrapped.ciphertext[:-1], b"", b"\0" * 200, wrapped.ciphertext[:40]]
    step = max(1, len(wrapped.ciphertext) // 12)
    for position in range(0, len(wrapped.ciphertext), step):
        damaged = bytearray(wrapped.ciphertext)
        damaged[position] ^= 1
        texts.append(bytes(damaged))
    for text in texts:
        with pytest.raises(IntegrityError):
            provider.unwrap(Wrapped(provider=wrapped.provider, key_id=wrapped.key_id, ciphertext=text), CONTEXT)
    for uri, key_id in ((wrapped.provider, "unknown"), ("aws-kms:nowhere-1", wrapped.key_id), ("", "")):
        with pytest.raises(IntegrityError, match="does not hold"):
            provider.unwrap(Wrapped(provider=uri, key_id=key_id, ciphertext=wrapped.ciphertext), CONTEXT)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_only_a_whole_key_is_wrapped(case: Case, length: int) -> None:
    with pytest.raises(RequestError, match="32 bytes"):
        case.ring.provider.wrap(bytes(length), CONTEXT)


def test_rotation_to_a_new_key_and_old_envelopes(case: Case) -> None:
    provider = case.ring.provider
    old = seal_envelope(KEY, provider, CONTEXT)
    before = provider.key_id
    new = case.ring.add_root_key()
    assert provider.key_id == new != before
    assert open_envelope(old, provider, CONTEXT) == KEY
    made, rot = rewrap_envelope(old, provider, CONTEXT)
    assert rot == 1 and new.encode() in made
    again = KeyRing.open(case.ring.path, Passphrase(WORDS))
    assert open_envelope(made, again.provider, CONTEXT, rot=1) == KEY
    assert rewrap_envelope(made, provider, CONTEXT, rot=7)[1] == 7


def test_from_one_service_to_another_and_back(case: Case) -> None:
    ring = case.ring
    first = ring.provider.uri
    envelope = seal_envelope(KEY, ring.provider, CONTEXT)
    ring.add_root_key(service=f"local-keyring:{ring.ring_id}")
    moved, _ = rewrap_envelope(envelope, ring.provider, CONTEXT)
    assert b"local-keyring:" in moved
    assert [open_envelope(data, ring.provider, CONTEXT) for data in (envelope, moved)] == [KEY, KEY]
    ring.add_root_key(service=first)
    back, rot = rewrap_envelope(moved, ring.provider, CONTEXT)
    assert rot == 2 and first.encode() in back and open_envelope(back, ring.provider, CONTEXT) == KEY


def test_the_narrowest_scope_wraps(case: Case) -> None:
    ring, provider = case.ring, case.ring.provider
    whole = provider.key_id
    workspace = ring.add_root_key(workspace_scope("default"))
    asset = ring.add_root_key(asset_scope("default", "a" * 26))
    found = [
        provider.wrap(KEY, context).key_id
        for context in (CONTEXT, CONTEXT | {"mid": "b" * 26}, CONTEXT | {"workspace": "other"}, {"purpose": "x"})
    ]
    assert found == [asset, workspace, whole, whole]
    assert provider.key_id == whole and len({asset, workspace, whole}) == 3


def test_a_destroyed_key_says_when_and_by_which_receipt(case: Case) -> None:
    ring, provider = case.ring, case.ring.provider
    scope = asset_scope("default", "a" * 26)
    ring.add_root_key(scope)
    wrapped = provider.wrap(KEY, CONTEXT)
    keys = [key for key in ring.root_keys if key.scope == scope]
    erasure = Erasure(at="2026-01-02T03:04:05.000Z", receipt="receipt-1")
    for _ in range(2):  # repeating it is no error
        assert set(ring.destroy_root_keys(keys, erasure)) == {wrapped.key_id}
    for each in (ring, KeyRing.open(ring.path, Passphrase(WORDS))):
        with pytest.raises(ErasedError, match=r"erased at 2026-01-02T03:04:05.000Z, receipt receipt-1"):
            each.provider.unwrap(wrapped, CONTEXT)
    with pytest.raises(RequestError, match="erased, so nothing can be written"):
        provider.wrap(KEY, CONTEXT)
    other = provider.wrap(KEY, CONTEXT | {"mid": "b" * 26})
    assert provider.unwrap(other, CONTEXT | {"mid": "b" * 26}) == KEY
    ring.add_root_key(scope)
    assert provider.unwrap(provider.wrap(KEY, CONTEXT), CONTEXT) == KEY


def test_threads_share_a_provider(case: Case) -> None:
    provider, errors = case.ring.provider, []

    def work() -> None:
        try:
            for _ in range(4):
                assert provider.unwrap(provider.wrap(KEY, CONTEXT), CONTEXT) == KEY
        except Exception as exc:  # noqa: BLE001
            errors.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


FAILURES: dict[str, list[Callable[[], Answer]]] = {
    "aws-kms": [throttled, broken, lambda: Answer(status=503)],  # boto3 repeats each thrice, with pauses
    "vault-transit": [lambda status=status: Answer(status=status) for status in (412, 429, 472, 473, 500, 502, 503)],
}


@remote
def test_a_service_that_cannot_answer_now_is_unavailable(case: Case) -> None:
    provider = case.ring.provider
    wrapped = provider.wrap(KEY, CONTEXT)
    calls: list[Callable[[], object]] = [
        lambda: provider.wrap(KEY, CONTEXT),
        lambda: provider.unwrap(wrapped, CONTEXT),
        lambda: provider.rewrap(wrapped, CONTEXT),
        provider.health,
    ]
    for number, failure in enumerate(FAILURES[provider.uri.split(":")[0]]):
        case.fake.failing = failure()
        for call in calls if number == 0 and "kms" not in provider.uri else calls[1:2]:
            with pytest.raises(UnavailableError):
                call()
    case.fake.failing = None
    assert provider.unwrap(wrapped, CONTEXT) == KEY


@remote
def test_a_service_that_is_gone_is_unavailable(case: Case) -> None:
    wrapped = case.ring.provider.wrap(KEY, CONTEXT)
    case.fake.__exit__()
    with pytest.raises(UnavailableError, match="does not answer"):
        case.ring.provider.unwrap(wrapped, CONTEXT)


@remote
def test_an_answer_of_something_else_is_refused(case: Case) -> None:
    wrapped = case.ring.provider.wrap(KEY, CONTEXT)
    for answer in (
        Answer(status=200, body=b"<html>", kind="text/html"),
        Answer(status=200, body=b'{"data": {"plaintext": "AAAA"}, "Plaintext": "AAAA"}'),
        Answer(status=302),
        Answer(status=401),
    ):
        case.fake.failing = answer
        with pytest.raises((UnavailableError, IntegrityError, RequestError)):
            case.ring.provider.unwrap(wrapped, CONTEXT)


@remote
def test_the_ring_itself_can_be_sealed_by_the_service(case: Case) -> None:
    ring = case.ring
    name_key = ring.workspace_name_key("default")
    ring.protect_by_service()
    text = ring.path.read_text()
    assert ring.protection == "service" and "name_keys" not in text and '"signing_seed"' not in text
    again = KeyRing.open(ring.path)
    assert again.workspace_name_key("default") == name_key
    again.add_workspace("second")
    assert ring.workspaces == ("default", "second")
    case.fake.failing = Answer(status=503)
    with pytest.raises(UnavailableError):
        KeyRing.open(ring.path)
    case.fake.failing = None
    KeyRing.open(ring.path).unprotect()
    assert KeyRing.open(ring.path).protection == "none"


@pytest.mark.parametrize("case", ["aws-kms"], indirect=True)
def test_kms_keys_that_are_disabled_or_waiting_refuse(case: Case) -> None:
    provider, fake = case.ring.provider, case.fake
    wrapped = provider.wrap(KEY, CONTEXT)
    fake.disable(wrapped.key_id)
    with pytest.raises(IntegrityError, match="DisabledException"):
        provider.unwrap(wrapped, CONTEXT)
    with pytest.raises(RequestError, match="disabled"):
        provider.wrap(KEY, CONTEXT)
    with pytest.raises(RequestError, match="Disabled"):
        provider.health()
    fake.enable(wrapped.key_id)
    assert provider.unwrap(wrapped, CONTEXT) == KEY
    service = provider.service(provider.uri)
    final = service.destroy(wrapped.key_id)
    assert final == service.destroy(wrapped.key_id) and final[:2] == "20"
    with pytest.raises(IntegrityError, match="KMSInvalidStateException"):
        provider.unwrap(wrapped, CONTEXT)
    fake.end_waiting(wrapped.key_id)
    with pytest.raises(IntegrityError, match="NotFoundException"):
        provider.unwrap(wrapped, CONTEXT)
    assert service.destroy(wrapped.key_id) == "now"


@pytest.mark.parametrize("case", ["aws-kms"], indirect=True)
def test_kms_takes_an_alias_and_keeps_the_arn_and_refuses_what_cannot_wrap(case: Case) -> None:
    ring, fake = case.ring, case.fake
    fake.aliases["alias/lightmill"] = fake.new_key()
    assert ring.add_root_key(key_id="alias/lightmill") == fake.aliases["alias/lightmill"]
    for metadata in ({"KeyUsage": "SIGN_VERIFY"}, {"KeySpec": "RSA_2048"}, {"KeyState": "Disabled"}):
        with pytest.raises(RequestError, match="a root key is an"):
            ring.add_root_key(key_id=fake.new_key(**metadata))
    with pytest.raises(RequestError, match="NotFoundException"):
        ring.add_root_key(key_id="unknown")
    fake.denied.add("CreateKey")
    with pytest.raises(RequestError, match="AccessDenied"):
        ring.add_root_key()
    assert all(b"canarysecretaccesskey" not in seen.body + repr(seen.headers).encode() for seen in fake.seen)


@pytest.mark.parametrize("case", ["aws-kms"], indirect=True)
def test_kms_wraps_again_inside_the_service(case: Case) -> None:
    wrapped = case.ring.provider.wrap(KEY, CONTEXT)
    case.ring.add_root_key()
    case.fake.seen.clear()
    again = case.ring.provider.rewrap(wrapped, CONTEXT)
    assert [seen.headers["x-amz-target"] for seen in case.fake.seen] == ["TrentService.ReEncrypt"]
    assert case.ring.provider.unwrap(again, CONTEXT) == KEY


@pytest.mark.parametrize("case", ["vault-transit", "vault-transit, not derived"], indirect=True)
def test_vault_wraps_again_under_a_newer_version_of_the_key(case: Case) -> None:
    provider, fake = case.ring.provider, case.fake
    wrapped = provider.wrap(KEY, CONTEXT)
    fake.rotate("root")
    fake.seen.clear()
    again = provider.rewrap(wrapped, CONTEXT)
    inside = [seen.path for seen in fake.seen] == ["/v1/transit/rewrap/root"]
    assert inside == fake.keys["root"]["derived"] and b"vault:v2:" in again.ciphertext
    fake.rotate("root", forget=True)
    with pytest.raises(IntegrityError, match="too old"):
        provider.unwrap(again, CONTEXT)


@pytest.mark.parametrize("case", ["vault-transit"], indirect=True)
def test_vault_keys_that_are_gone_refuse_and_are_not_made_again(case: Case) -> None:
    provider, fake = case.ring.provider, case.fake
    wrapped = provider.wrap(KEY, CONTEXT)
    assert provider.service(provider.uri).destroy("root") == "now" and "root" not in fake.keys
    assert provider.service(provider.uri).destroy("root") == "now"
    with pytest.raises(IntegrityError, match="encryption key not found"):
        provider.unwrap(wrapped, CONTEXT)
    with pytest.raises(RequestError):
        provider.wrap(KEY, CONTEXT)
    assert "root" not in fake.keys


@pytest.mark.parametrize("case", ["vault-transit"], indirect=True)
def test_vault_s_token_is_read_each_time_and_shown_nowhere(case: Case, tmp_path: Path) -> None:
    provider, fake, token = case.ring.provider, case.fake, tmp_path / "token"
    wrapped = provider.wrap(KEY, CONTEXT)
    texts = [repr(provider), repr(provider.service(provider.uri)), case.ring.path.read_text()]
    for content, mode in (("hvs.wrong", 0o600), ("two words", 0o600), ("", 0o600), (TOKEN, 0o644)):
        token.write_text(content)
        token.chmod(mode)
        with pytest.raises(RequestError) as refused:
            provider.unwrap(wrapped, CONTEXT)
        texts.append(str(refused.value))
    token.chmod(0o600)
    assert provider.unwrap(wrapped, CONTEXT) == KEY
    fake.sealed = True
    with pytest.raises(UnavailableError) as sealed:
        provider.unwrap(wrapped, CONTEXT)
    texts.append(str(sealed.value))
    assert not [text for text in texts if TOKEN in text or "hvs.wrong" in text]
    assert all(TOKEN not in seen.path and TOKEN.encode() not in seen.body for seen in fake.seen)


@pytest.mark.parametrize("case", ["vault-transit"], indirect=True)
def test_vault_keys_that_bind_no_context_are_not_taken(case: Case) -> None:
    with pytest.raises(RequestError, match="does not bind a context"):
        case.ring.add_root_key(key_id=case.fake.new_key("rsa", type="rsa-2048"))
    with pytest.raises(RequestError, match="is not the name of a transit key"):
        case.ring.add_root_key(key_id="../sys/seal")
    with pytest.raises(RequestError, match="is not there"):
        case.ring.add_root_key(key_id="unknown")


def test_a_vault_in_the_clear_is_used_on_loopback_only(tmp_path: Path) -> None:
    ring = KeyRing.create(tmp_path / "ring.json")
    uri = ring.add_service(VaultTransitSettings(url="http://vault.example.org:8200", token_file=str(tmp_path / "t")))
    with pytest.raises(RequestError, match="in the clear"):
        ring.add_root_key(service=uri)


def test_our_calls_have_the_shape_that_moto_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("moto", reason="moto is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with library.mock_aws():
        ring = KeyRing.create(tmp_path / "ring.json")
        first = ring.add_root_key(service=ring.add_service(AwsKmsSettings(region=REGION)))
        wrapped = ring.provider.wrap(KEY, CONTEXT)
        second = ring.add_root_key()
        again = ring.provider.rewrap(wrapped, CONTEXT)
        assert [wrapped.key_id, again.key_id] == [first, second] and first.startswith(f"arn:aws:kms:{REGION}:")
        assert [ring.provider.unwrap(each, CONTEXT) for each in (wrapped, again)] == [KEY, KEY]
        ring.provider.health()
        service = ring.provider.service(ring.provider.uri)
        id = first.rpartition("/")[2]
        assert service.destroy(id) == service.destroy(id) > "20"
        with pytest.raises(RequestError, match="NotFoundException"):
            service.check("00000000-0000-0000-0000-000000000000")
