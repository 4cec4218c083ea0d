"""Candidates through the routes, the client and the command line, on a real port."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from typer.testing import CliRunner

import lightmill
from lightmill.access import KeyChecker, mint_key
from lightmill.api.app import handle_errors
from lightmill.api.gate import Gate
from lightmill.api.traffic import traffic_router
from lightmill.cli.main import app as commands
from lightmill.errors import ConflictError, NotFoundError, RequestError
from lightmill.records.rollouts import TrafficPhase
from lightmill.sdk import Client
from lightmill.serving.traffic.differences import DifferenceLog, DifferencesSpec, seal_differences
from tests.unit.control.test_rollout import Site, canary
from tests.unit.serving.traffic.plans import version
from tests.unit.serving.traffic.test_differences import differing


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def client(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    text, key = mint_key("admin")
    app = FastAPI()
    app.include_router(traffic_router(site.service))
    handle_errors(app)
    app.add_middleware(Gate, keys=lambda: KeyChecker([key]), prefix="/api/v1")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    monkeypatch.setenv("LIGHTMILL_URL", url)
    monkeypatch.setenv("LIGHTMILL_API_KEY", text)
    with lightmill.connect(url, text) as connected:
        yield connected
    server.should_exit = True
    thread.join()


def run(*arguments: str) -> str:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(commands, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def test_a_canary_is_watched_promoted_and_rolled_back(site: Site, client: Client) -> None:
    canary(site)
    site.step()
    site.step()
    site.count(next=(30, 0), stable=(400, 0))
    report = client.endpoints.traffic("e")
    assert report == site.service.report("e") and report.phase is TrafficPhase.RUNNING
    shown = run("traffic", "e")
    assert "step 1 of 2 (10 %): its replicas run" in shown and "Traffic of e" in shown
    assert json.loads(run("traffic", "e", "--json"))["rows"][1]["requests"] == 60
    client.endpoints.promote("e")
    site.step()
    site.observed()
    site.step()
    assert client.endpoints.traffic("e").phase is TrafficPhase.PROMOTED and site.champion == 2
    with pytest.raises(ConflictError, match="already"):
        client.endpoints.promote("e", "next")
    with pytest.raises(NotFoundError, match="nobody"):
        client.endpoints.promote("e", "nobody")
    assert "promoted" in run("rollback", "e") and site.champion == 1
    site.step()
    assert json.loads(run("traffic", "e", "--json"))["phase"] == "rolled_back"


def test_differences_are_listed(site: Site, client: Client) -> None:
    site.deploy({"name": "shade", "model": "m@2", "shadow": 1})
    assert client.endpoints.shadows("e") == []
    log = DifferenceLog(DifferencesSpec(), "m@1", seal_differences(site.world.registry, "e", version(1, "m")))
    for id in ("r-1", "r-2"):
        log.offer(differing((0, 1), id))
        log.flush(everything=True)
    found = client.endpoints.shadows("e", limit=3)
    assert [(one.request, one.row) for one in found] == [("r-2", 1), ("r-2", 0), ("r-1", 1)]
    assert "r-2" in run("shadows", "e") and len(json.loads(run("shadows", "e", "--limit", "1", "--json"))) == 1
    with pytest.raises(NotFoundError):
        client.endpoints.shadows("nothing")
    with pytest.raises(RequestError):
        client.endpoints.shadows("e", limit=0)
