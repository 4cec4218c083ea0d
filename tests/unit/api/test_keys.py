"""The routes of API keys through the gate, the client and the command line, on a real port."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

import lightmill
from lightmill.access import Identifier, mint_key
from lightmill.api.app import handle_errors
from lightmill.api.gate import Gate
from lightmill.api.keys import key_router
from lightmill.api.metrics import metrics_router
from lightmill.catalog import Catalog
from lightmill.control.access import KeyService
from lightmill.errors import AuthenticationError, ConflictError, ForbiddenError, NotFoundError, RequestError
from lightmill.records.access import LimitsSpec
from lightmill.records.keys import KeyState
from lightmill.sdk import Client
from tests.unit.access.issuing import ISSUER, token, trusted


class Site:
    url, admin = "", ""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site()
    with Catalog.open(f"sqlite:///{tmp_path / 'catalog.db'}") as catalog:
        catalog.migrate()
        found.admin, key = mint_key("admin")
        catalog.keys.add(key)
        app = FastAPI()
        app.include_router(key_router(KeyService(catalog, lambda: None)))
        app.include_router(metrics_router(lambda: "lightmill_rows_total 1\n"))
        handle_errors(app)
        app.add_middleware(Gate, keys=lambda: Identifier(catalog.keys.list(), [trusted()]), prefix="/api/v1")
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        found.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield found
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(site: Site) -> Iterator[Client]:
    with lightmill.connect(site.url, site.admin) as client:
        yield client


def test_a_key_is_made_rotated_and_revoked(client: Client) -> None:
    limits = LimitsSpec(requests_per_s=5, burst=10)
    made = client.api_keys.create("ci", ["predict:digits"], expires=timedelta(days=1), limits=limits)
    assert made.key.startswith(made.summary.prefix + "_") and made.summary.limits == limits
    listed = {key.name: key for key in client.api_keys.list()}
    assert listed["ci"] == made.summary and listed["admin"].scopes == ("admin",)
    rotated = client.api_keys.rotate(made.summary.prefix, overlap=timedelta(minutes=5))
    assert rotated.key != made.key and rotated.summary.state is KeyState.ROTATING
    assert client.api_keys.revoke(made.summary.id).state is KeyState.REVOKED
    with pytest.raises(ConflictError, match="no longer good"):
        client.api_keys.rotate(made.summary.id)
    with pytest.raises(NotFoundError, match=made.summary.prefix):
        client.api_keys.revoke("ffffffff")


def test_what_is_wrong_is_said_before_and_behind_the_wire(client: Client, site: Site) -> None:
    with pytest.raises(RequestError, match="is no scope"):
        client.api_keys.create("ci", ["everything"])
    with pytest.raises(RequestError, match="overlap_s"):
        client.api_keys.rotate("x", overlap=timedelta(days=91))
    answer = httpx.post(
        f"{site.url}/api/v1/keys", json={"name": "x", "scopes": ["root"]}, headers={"X-API-Key": site.admin}
    )
    assert answer.status_code == 400 and "is no scope" in answer.json()["error"]


def test_the_answer_with_a_key_is_for_nobody_to_keep(site: Site) -> None:
    answer = httpx.post(f"{site.url}/api/v1/keys", json={"name": "x"}, headers={"X-API-Key": site.admin})
    assert answer.status_code == 201 and answer.headers["cache-control"] == "no-store"
    assert answer.json()["summary"]["scopes"] == ["predict:*"]


def test_only_the_scope_admin_opens_the_control_api(client: Client, site: Site) -> None:
    narrow = client.api_keys.create("ci", ["predict:*"])
    with lightmill.connect(site.url, narrow.key) as other, pytest.raises(ForbiddenError, match="needs the scope admin"):
        other.api_keys.list()
    reader = client.api_keys.create("prometheus", ["metrics"])
    headers = {"Authorization": f"Bearer {reader.key}"}
    answer = httpx.get(f"{site.url}/api/v1/metrics", headers=headers)
    assert answer.text == "lightmill_rows_total 1\n" and answer.headers["content-type"].startswith("text/plain")
    assert httpx.get(f"{site.url}/api/v1/keys", headers=headers).status_code == 403
    assert httpx.get(f"{site.url}/api/v1/metrics").status_code == 401


def test_a_revoked_key_is_out_at_once(client: Client, site: Site) -> None:
    made = client.api_keys.create("second admin", ["admin"])
    client.api_keys.create("for a day", ["admin"], expires=timedelta(days=1))
    client.api_keys.revoke(made.summary.id)
    (first,) = (key for key in client.api_keys.list() if key.name == "admin")
    with pytest.raises(ConflictError, match="last key with the scope admin"):
        client.api_keys.revoke(first.id)
    client.api_keys.revoke(made.summary.id)
    with lightmill.connect(site.url, made.key) as other, pytest.raises(AuthenticationError, match="was revoked"):
        other.api_keys.list()


def test_a_token_opens_the_control_api_if_the_map_says_so(site: Site) -> None:
    times = {"iat": time.time(), "exp": time.time() + 60, "iss": ISSUER.issuer}
    with lightmill.connect(site.url, token(scope="ml-admin", **times).decode()) as client:
        assert [key.name for key in client.api_keys.list()] == ["admin"]
    with lightmill.connect(site.url, token(scope="admin", **times).decode()) as client, pytest.raises(ForbiddenError):
        client.api_keys.list()


def test_the_command_line_shows_a_key_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightmill.cli import main

    monkeypatch.setenv("LIGHTMILL_URL", site.url)
    monkeypatch.setenv("LIGHTMILL_API_KEY", site.admin)

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["lightmill", "api-keys", *arguments])
        capsys.readouterr()
        try:
            main()
        except SystemExit as exc:
            assert not exc.code, capsys.readouterr().err
        return capsys.readouterr().out

    shown = run("create", "ci", "--scope", "predict:digits", "--scope", "metrics", "--expires", "30d", "--rate", "2")
    key = next(line for line in shown.splitlines() if line.startswith("lm_"))
    prefix = key[:11]
    assert "metrics predict:digits" in shown and "requests per s 2" in shown
    listed = run("list", "--json")  # a table's columns are as wide as whoever loaded rich first was told
    assert prefix.removeprefix("lm_") in listed and "active" in listed and key not in listed
    rotated = json.loads(run("rotate", prefix, "--overlap", "5m", "--json"))
    assert rotated["key"] != key and rotated["summary"]["old_until"]
    assert "rotating" in run("list", "--json")
    assert "revoked" in run("revoke", prefix)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "x", "--expires", "soon"), "'soon' is neither a length of time, such as 30d, nor a date"),
        (("create", "x", "--burst", "3"), "--burst needs --rate"),
        (("create", "x", "--scope", "all"), "'all' is no scope"),
        (("rotate", "x", "--overlap", "long"), "'long' is no length of time"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightmill.cli import main

    monkeypatch.setenv("LIGHTMILL_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LIGHTMILL_API_KEY", "lm_00000000_" + "A" * 43)
    monkeypatch.setattr("sys.argv", ["lightmill", "api-keys", *arguments, "--json"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert message in json.loads(capsys.readouterr().out)["error"]
