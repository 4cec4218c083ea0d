"""The gate in front of the control API, with a real application behind it."""

from __future__ import annotations

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from lightmill.access import KeyChecker, mint_key
from lightmill.api.gate import BODY_MAX_BYTES, Gate

TEXT, KEY = mint_key("test")


@pytest.fixture
def http() -> TestClient:
    app = FastAPI()
    app.state.read = 0

    @app.post("/api/v1/echo")
    async def echo(request: Request) -> int:
        app.state.read = len(await request.body())
        return app.state.read

    @app.get("/open")
    def open_route() -> str:
        return "yes"

    app.add_middleware(Gate, keys=lambda: KeyChecker([KEY]), prefix="/api/v1")
    return TestClient(app, raise_server_exceptions=False)


def test_without_a_key_no_body_is_read(http: TestClient) -> None:
    answer = http.post("/api/v1/echo", content=b"x" * 1000)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert set(answer.json()) == {"error", "type"}
    assert http.app.state.read == 0  # pyright: ignore[reportAttributeAccessIssue]


def test_with_a_key_a_body_up_to_the_limit_passes(http: TestClient) -> None:
    headers = {"X-API-Key": TEXT}
    assert http.post("/api/v1/echo", content=b"x" * BODY_MAX_BYTES, headers=headers).json() == BODY_MAX_BYTES
    assert http.post("/api/v1/echo", content=b"x" * (BODY_MAX_BYTES + 1), headers=headers).status_code == 413


def test_a_body_that_grows_beyond_the_limit_is_cut_off(http: TestClient) -> None:
    pieces = (b"x" * 65536 for _ in range(64))
    answer = http.post("/api/v1/echo", content=pieces, headers={"X-API-Key": TEXT})
    assert answer.status_code >= 400
    assert http.app.state.read == 0  # pyright: ignore[reportAttributeAccessIssue]


def test_other_paths_are_open(http: TestClient) -> None:
    assert http.get("/open").json() == "yes"
