"""The URLs of remote stores: what they may say, and that no secret is taken or shown."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import RequestError
from lightmill.storage import RetryingStore, open_store
from lightmill.storage.address import RemoteAddress, parse_address

GOOD = [
    "s3://bucket",
    "s3://bucket/a/b.c_d-e",
    "s3://bucket/p?endpoint=http://127.0.0.1:18333&region=us-east-1",
    "s3://bucket/p?endpoint=https://[::1]:9000",
    "s3://my.bucket/p?region=eu-central-1&addressing=virtual",
    "gs://bucket/deep/path",
    "gs://bucket?endpoint=http://localhost:4443",
    "az://container/p?account=name",
    "az://container?account=name&endpoint=http://127.0.0.1:10000/name",
]
SECRET = "hunter2-do-not-show"
SECRETS = [
    f"s3://key:{SECRET}@bucket/p",
    f"s3://{SECRET}@bucket/p",
    f"s3://bucket/p?secret_access_key={SECRET}",
    f"s3://bucket/p?AWS_SECRET_ACCESS_KEY={SECRET}",
    f"s3://bucket/p?token={SECRET}&region=x",
    f"s3://bucket/p?endpoint=http://key:{SECRET}@host:1",
    f"s3://bucket/p?endpoint=http://host:1?sig={SECRET}",
    f"s3://bucket/p?endpoint=http%3A%2F%2Fkey%3A{SECRET}%40host",
    f"gs://bucket/p?service_account_key={SECRET}",
    f"az://container/p?sig={SECRET}",
    f"az://container/p?account=a&account_key={SECRET}",
    f"az://name:{SECRET}@container",
    f"http://key:{SECRET}@host/p",
    f"s3a://key:{SECRET}@bucket",
    f"file://key:{SECRET}@host/p",
    f"memory://{SECRET}",
    f"s3://bucket/p#{SECRET}",
]


@pytest.mark.parametrize("text", GOOD)
def test_a_url_is_read_and_written_again(text: str) -> None:
    address = parse_address(text)
    assert address.url == text and parse_address(address.url) == address


def test_what_is_not_said_has_a_default() -> None:
    assert parse_address("s3://b") == RemoteAddress(scheme="s3", bucket="b")
    assert parse_address("s3://b/p/?addressing=path").url == "s3://b/p"


@pytest.mark.parametrize("text", SECRETS)
def test_a_url_with_a_secret_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        open_store(text)
    shown = f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {pickle.dumps(caught.value)!r}"
    assert SECRET not in shown
    if "?" in text and text.startswith(("s3://", "gs://", "az://")):
        assert "environment variables" in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "s3://", "s3:///p", "s3://bucket/../p", "s3://bucket/a//b", "s3://bucket/%2e%2e", "s3://bucket/.hidden",
        "s3://bucket/p?region=", "s3://bucket/p?region=a/b", "s3://bucket/p?addressing=other", "s3://b\u00fccket",
        "s3://bucket?endpoint=ftp://x", "s3://bucket?endpoint=host:1", "s3://bucket?endpoint=", "s3://bucket?region",
        "s3://bucket?region=a&region=b", "s3://bucket?account=a", "gs://bucket?region=a", "az://container?region=a",
        "s3://bucket:9000/p", "s3://bu cket",
    ],
)  # fmt: skip
def test_a_malformed_url_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(RequestError, match=r"write (s3|gs|az)://BUCKET|Write (s3|gs|az)://BUCKET"):
        parse_address(text)


@given(st.text(max_size=80))
def test_no_text_is_anything_but_an_address_or_refused(text: str) -> None:
    for scheme in ("s3", "gs", "az"):
        try:
            address = parse_address(f"{scheme}://{text}")
        except RequestError:
            continue
        assert parse_address(address.url) == address and "@" not in address.url


def test_opening_asks_nobody_and_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore", reason="obstore is not installed")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "aHVudGVyMi1kby1ub3Qtc2hvdw==")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    for text in GOOD:
        store = open_store(text)
        assert isinstance(store, RetryingStore) and store.url == text
        assert store.requests.total == 0
        assert repr(store) == f"RetryingStore(RemoteStore({text!r}))"
        for held in (store.__dict__, store._inner.__dict__):
            assert SECRET not in repr(held) and "aHVudGVyMi1" not in repr(held)


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("GOOGLE_SERVICE_ACCOUNT", "gs://bucket", "Unable to open service account file"),
        ("GOOGLE_SERVICE_ACCOUNT_KEY", "gs://bucket", "Unable to decode service account"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "az://container?account=a", "Invalid Access Key"),
        ("NOTHING", "az://container", "Account must be specified"),
        ("AWS_SKIP_SIGNATURE", "s3://bucket", "failed to parse"),
    ],
)
def test_a_malformed_environment_is_told_without_its_values(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, reason: str
) -> None:
    pytest.importorskip("obstore", reason="obstore is not installed")
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "AZURE_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(variable, f"/{SECRET}!" if reason != "Unable to open service account file" else "/none.json")
    with pytest.raises(RequestError, match=reason) as caught:
        open_store(text)
    assert "environment" in caught.value.message
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_obstore_is_loaded_only_when_it_is_needed() -> None:
    code = (
        "import sys; from lightmill.storage import open_store; open_store('/x'); open_store('memory://');"
        "print([m for m in sys.modules if m.split('.')[0] in ('obstore', 'ray', 'torch')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
