"""Every secret of a deployment, looked for in everything that this room says: errors, texts, pickles, logs."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightmill.errors import LightmillError
from lightmill.vault import (
    Argon2idKdf,
    AwsKmsSettings,
    BlobContext,
    BlobReader,
    Erasure,
    KeyRing,
    Passphrase,
    VaultTransitSettings,
    Wrapped,
    asset_scope,
    open_blob,
    open_envelope,
    rewrap_envelope,
    seal_blob,
    seal_envelope,
)
from lightmill.vault.receipts import AuditTrail, KeyAction
from lightmill.vault.ring_seal import RingSeal
from tests.fake_kms import REGION, FakeKms
from tests.fake_transit import TOKEN, FakeTransit
from tests.http_fake import Answer

CONTEXT = {"store": "0" * 32, "workspace": "default", "mid": "a" * 26, "seq": "1"}
WORDS = "canary passphrase of the key ring"
VERSION_KEY = b"canary version key, 32 bytes lng"
AWS_SECRET = "canarysecretaccesskey0123456789abcdefghi"


def spellings(secret: bytes) -> list[str]:
    return [
        secret.hex(),
        base64.b64encode(secret).decode(),
        repr(secret)[2:-1],
        base64.urlsafe_b64encode(secret).decode(),
    ]


class Ears:
    """Collects every text, and the errors that calls raise."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.errors = 0

    def hear(self, call: Callable[[], object]) -> None:
        try:
            call()
        except LightmillError as exc:
            self.errors += 1
            self.texts.append("".join(traceback.format_exception(exc)))
            self.texts.append(repr(pickle.loads(pickle.dumps(exc))) + repr(pickle.dumps(exc)))
            cause: BaseException | None = exc
            while cause is not None:  # what an error reporter walks, suppressed contexts included
                self.texts.append(repr(cause) + repr(vars(cause)))
                cause = cause.__cause__ or cause.__context__

    def look(self, holder: object) -> None:
        self.texts.append(f"{holder!r} {holder!s} {holder}")


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeKms, FakeTransit, Path]]:
    pytest.importorskip("boto3", reason="the extra `aws` is not installed")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFAKEFAKEFAKEFAKE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", AWS_SECRET)
    monkeypatch.delenv("LIGHTMILL_PASSPHRASE_FILE", raising=False)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with FakeKms() as kms, FakeTransit() as transit:
        yield kms, transit, token


def test_no_secret_is_shown_logged_or_pickled(
    ring: KeyRing, services: tuple[FakeKms, FakeTransit, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    kms, transit, token = services
    ears = Ears()
    plain = json.loads(ring.path.read_text())
    secrets = [base64.b64decode(v) for v in [*plain["root_keys"].values(), *plain["name_keys"].values()]]
    secrets += [base64.b64decode(plain["signing_seed"]), VERSION_KEY]

    uris = {
        "kms": ring.add_service(AwsKmsSettings(region=REGION, endpoint=kms.url)),
        "transit": ring.add_service(VaultTransitSettings(url=transit.url, token_file=str(token))),
        "local": f"local-keyring:{ring.ring_id}",
    }
    seal = RingSeal(b"canary sealing key of a key ring", Argon2idKdf.fresh())
    for uri in uris.values():
        ring.add_root_key(service=uri)
        exercise(ring, ears, kms, transit)
    scope = asset_scope("default", "a" * 26)
    ring.add_root_key(scope)
    wrapped = ring.provider.wrap(VERSION_KEY, CONTEXT)
    secrets += [base64.b64decode(v) for v in json.loads(ring.path.read_text())["secrets"]["root_keys"].values()]
    ring.destroy_root_keys([k for k in ring.root_keys if k.scope == scope], Erasure(at="now", receipt="r"))
    ears.hear(lambda: ring.provider.unwrap(wrapped, CONTEXT))
    ears.hear(lambda: ring.provider.wrap(VERSION_KEY, CONTEXT))
    trail = AuditTrail(ring)
    ears.hear(lambda: trail.append(KeyAction.ERASE, scope=scope, what="x"))
    trail.path.write_bytes(b"{}\n")
    ears.hear(trail.read)

    passphrase = Passphrase(WORDS)
    ring.protect(passphrase, Argon2idKdf.fresh(memory_kib=8192, iterations=1))
    good = ring.path.read_bytes()
    ears.hear(lambda: KeyRing.open(ring.path))
    ears.hear(lambda: KeyRing.open(ring.path, Passphrase(WORDS + "x")))
    ears.hear(lambda: Passphrase(WORDS[:5]).check_strength())
    ears.hear(lambda: Passphrase(WORDS * 100))
    for data in (good[:-9], good.replace(b'"trusted"', b'"trustee"'), json.dumps(plain | {"x": 1}).encode()):
        ring.path.write_bytes(data)
        ears.hear(lambda: KeyRing.open(ring.path, passphrase))
    ring.path.write_bytes(good)

    held = [ring, ring.provider, ring.signer, passphrase, seal]
    held += [ring.provider.service(uri) for uri in uris.values()]
    for holder in held:
        ears.look(holder)
        with pytest.raises(TypeError, match="does not pickle"):
            pickle.dumps(holder)
    for public in (*ring.root_keys, *ring.services.values(), ring.trusted, ring.trail):
        ears.look(public)

    needles = [n for secret in secrets for n in spellings(secret)]
    needles += [TOKEN, AWS_SECRET, WORDS, *spellings(WORDS.encode()), *spellings(b"canary sealing key of a key ring")]
    everything = "\n".join([*ears.texts, caplog.text, *(repr(vars(record)) for record in caplog.records)])
    assert [needle for needle in needles if needle in everything] == []
    assert ears.errors >= 50
    print(
        f"secrets: {len(needles)} spellings of {len(secrets) + 4} secrets, {ears.errors} errors, "
        f"{len(caplog.records)} log records: none shown"
    )
    assert all(TOKEN not in seen.path and AWS_SECRET not in repr(seen) for seen in (*kms.seen, *transit.seen))


def exercise(ring: KeyRing, ears: Ears, kms: FakeKms, transit: FakeTransit) -> None:
    """Make every error of wrapping, unwrapping, envelopes and blobs that a provider can meet."""
    provider = ring.provider
    wrapped = provider.wrap(VERSION_KEY, CONTEXT)
    envelope = seal_envelope(VERSION_KEY, provider, CONTEXT)
    other = CONTEXT | {"seq": "2"}
    blob_context = BlobContext.for_data("0" * 32, "default")
    sealed = bytes(seal_blob(b"canary", VERSION_KEY, blob_context))

    def changed(**fields: Any) -> Wrapped:
        values = {"provider": wrapped.provider, "key_id": wrapped.key_id, "ciphertext": wrapped.ciphertext}
        return Wrapped(**(values | fields))

    calls: list[Callable[[], object]] = [
        lambda: provider.unwrap(wrapped, other),
        lambda: provider.rewrap(wrapped, other),
        lambda: provider.unwrap(changed(ciphertext=wrapped.ciphertext[:-1]), CONTEXT),
        lambda: provider.unwrap(changed(key_id="unknown"), CONTEXT),
        lambda: provider.unwrap(changed(provider="aws-kms:x"), CONTEXT),
        lambda: provider.wrap(VERSION_KEY[:31], CONTEXT),
        lambda: ring.add_root_key(key_id="../nothing"),
        lambda: open_envelope(envelope, provider, other),
        lambda: open_envelope(envelope.replace(b'"rot":0', b'"rot":1'), provider, CONTEXT),
        lambda: open_envelope(envelope[:-4], provider, CONTEXT),
        lambda: rewrap_envelope(envelope.replace(b'"rot":0', b'"rot":1'), provider, CONTEXT),
        lambda: open_blob(sealed[:-1], VERSION_KEY, blob_context),
        lambda: open_blob(sealed, VERSION_KEY, BlobContext.for_data("0" * 32, "other")),
        lambda: BlobReader.parse(sealed[:128], VERSION_KEY[:5], blob_context, len(sealed)),
        lambda: BlobReader.parse(sealed[:128], VERSION_KEY, blob_context, len(sealed)),
        lambda: ring.workspace_name_key("unknown"),
    ]
    for call in calls:
        ears.hear(call)
    for status in (400, 403, 404, 429, 500, 503, 302):
        kms.failing = transit.failing = Answer(status=status, body=b'{"errors": ["no"], "__type": "Oops"}')
        for call in (lambda: provider.unwrap(wrapped, CONTEXT), lambda: provider.wrap(VERSION_KEY, CONTEXT)):
            ears.hear(call)
    kms.failing = transit.failing = None
