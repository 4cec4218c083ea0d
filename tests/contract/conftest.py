"""The servers of the contract suites, started once per session."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.seaweed import SeaweedServer, s3_environment, seaweed_server, why_no_seaweed
from tests.tiny_server import tiny_server


@pytest.fixture(scope="session")
def seaweed_process() -> Iterator[SeaweedServer]:
    reason = why_no_seaweed()
    if reason:
        print(f"skipping: {reason}")
        pytest.skip(reason)
    with seaweed_server() as server:
        yield server


@pytest.fixture
def seaweed(seaweed_process: SeaweedServer) -> Iterator[SeaweedServer]:
    """A real S3 server, with its credentials in the environment for the length of a test."""
    with s3_environment(seaweed_process):
        yield seaweed_process


@pytest.fixture
def tiny_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Starts a tiny server of a dialect and returns the URL of an empty store on it."""
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "no secret of anybody")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(b"no secret of anybody").decode())
    with ExitStack() as stack:

        def start(dialect: str, conditional: bool = True, page: int = 1000) -> str:
            server = stack.enter_context(tiny_server(dialect, conditional=conditional, page=page))
            account = "account=lightmill&" if dialect == "az" else ""
            return f"{dialect}://bucket/deep/store?{account}endpoint={server.endpoint}"

        yield start
