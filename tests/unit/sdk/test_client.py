"""The client against a small HTTP server: what it sends, and what it makes of answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import lightmill
from lightmill.errors import (
    AuthenticationError,
    ConflictError,
    ForbiddenError,
    IntegrityError,
    JobError,
    LightmillError,
    NotFoundError,
    RequestError,
    UnavailableError,
)
from lightmill.sdk import Client
from lightmill.sdk.transport import API

KEY = "lm_0123abcd_secret"


class Scripted(ThreadingHTTPServer):
    """Answers each path with what `answers` holds for it, the last one again and again; keeps what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, dict(self.headers), body))
        waiting = self.server.answers.get(f"{self.command} {self.path.partition('?')[0]}", [(404, b"nothing here")])
        status, value = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(server: Scripted) -> Iterator[Client]:
    with lightmill.connect(server.url + "/", KEY) as client:
        yield client


STATUS = {"version": "1", "store": "s", "resources": {}, "free": {}, "nodes": 1, "models": 0, "datasets": 0} | {
    "endpoints": {},
    "jobs_running": 0,
}


def job(state: str = "running", kind: str = "ingest", **fields: Any) -> dict[str, Any]:
    return {"id": "j", "kind": kind, "name": "n", "state": state, **fields}


def endpoint(state: str = "ready", message: str = "") -> dict[str, Any]:
    return {"name": "e", "spec": {"name": "e", "model": "m@champion"}, "state": state, "message": message}


def test_every_request_carries_the_key_and_nothing_prints_it(server: Scripted, client: Client) -> None:
    server.answers[f"GET {API}/models"] = [(200, [])]
    assert client.models.list() == []
    assert server.asked[0][2]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(client) + repr(client._transport)
    assert client.url == server.url


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (404, {"error": "no such model", "type": "NotFoundError"}, NotFoundError, "no such model"),
        (409, {"error": "moved", "type": "ConflictError"}, ConflictError, "moved"),
        (500, {"error": "bytes", "type": "IntegrityError"}, IntegrityError, "bytes"),
        (401, {"error": "who?"}, AuthenticationError, "who"),
        (403, {"error": "no"}, ForbiddenError, "no"),
        (400, {"error": "wrong"}, RequestError, "wrong"),
        (503, {"error": "later"}, UnavailableError, "later"),
        (500, b"<html>a proxy speaks</html>", LightmillError, "answered 500.*proxy speaks"),
        (503, b"", UnavailableError, "answered 503"),
        (404, ["not", "ours"], NotFoundError, "answered 404"),
        (418, {"error": "tea", "type": "TeapotError"}, LightmillError, "tea"),
    ],
)
def test_an_answer_that_refuses_becomes_the_error_that_it_names(
    server: Scripted, client: Client, status: int, body: Any, kind: type[Exception], text: str
) -> None:
    server.answers[f"GET {API}/models"] = [(status, body)]
    with pytest.raises(LightmillError, match=text) as caught:
        client.models.list()
    assert type(caught.value) is kind


def test_nobody_there_is_unavailable_with_address_and_remedy() -> None:
    with lightmill.connect("http://127.0.0.1:9", KEY) as client, pytest.raises(UnavailableError) as caught:
        client.status()
    assert "http://127.0.0.1:9" in caught.value.message and "lightmill up" in caught.value.message


def test_an_answer_that_is_no_json_is_an_error_of_ours(server: Scripted, client: Client) -> None:
    server.answers[f"GET {API}/status"] = [(200, b"<html>a login page</html>")]
    with pytest.raises(LightmillError):
        client.status()


def test_a_key_comes_from_the_argument_the_environment_or_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: Scripted
) -> None:
    monkeypatch.setenv("LIGHTMILL_HOME", str(tmp_path))
    monkeypatch.setenv("LIGHTMILL_URL", server.url)
    monkeypatch.delenv("LIGHTMILL_API_KEY", raising=False)
    server.answers[f"GET {API}/status"] = [(200, STATUS)]
    with pytest.raises(AuthenticationError, match="admin.key"):
        lightmill.connect()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "admin.key").write_text("from-the-file\n")
    lightmill.connect().status()
    monkeypatch.setenv("LIGHTMILL_API_KEY", "from-the-environment")
    lightmill.connect().status()
    lightmill.connect(api_key="from-the-argument").status()
    assert [headers["Authorization"].split()[1] for _, _, headers, _ in server.asked] == [
        "from-the-file",
        "from-the-environment",
        "from-the-argument",
    ]


def test_a_specification_is_checked_before_it_is_sent(server: Scripted, client: Client, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="unknown key 'epoch'"):
        client.jobs.train({"model": "m", "dataset": "d", "architecture": {"name": "mlp"}, "epoch": 3})
    with pytest.raises(NotFoundError, match="no.yaml"):
        client.jobs.train(tmp_path / "no.yaml")
    assert server.asked == []


def test_a_job_is_sent_with_its_folder(server: Scripted, client: Client, tmp_path: Path) -> None:
    server.answers[f"POST {API}/jobs"] = [(200, job(kind="train"))]
    (tmp_path / "train.yaml").write_text("model: m\ndataset: d\narchitecture: {name: mlp}\n")
    assert client.jobs.train(tmp_path / "train.yaml").id == "j"
    body = server.asked[0][3]
    assert (body["kind"], body["folder"]) == ("train", str(tmp_path))
    assert body["spec"]["dataset"] == "d@latest"


def test_waiting_shows_progress_and_returns_the_job_that_succeeded(server: Scripted, client: Client) -> None:
    server.answers[f"GET {API}/jobs/j"] = [
        (200, job("pending")),
        (503, {"error": "restarting"}),
        (200, job("succeeded")),
    ]
    seen: list[str] = []
    assert client.jobs.wait("j", on_progress=lambda now, _: seen.append(now.state)).state == "succeeded"
    assert seen == ["pending", "succeeded"]


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_did_not_succeed_is_a_job_error_with_its_message(
    server: Scripted, client: Client, state: str
) -> None:
    server.answers[f"GET {API}/jobs/j"] = [(200, job(state, message="the reason"))]
    with pytest.raises(JobError, match=f"j {state}: the reason"):
        client.jobs.wait("j")


def test_a_job_that_takes_too_long_is_unavailable_and_goes_on(server: Scripted, client: Client) -> None:
    server.answers[f"GET {API}/jobs/j"] = [(200, job())]
    for limit in (1e-9, 0.0):
        with pytest.raises(UnavailableError, match="still running"):
            client.jobs.wait("j", timeout_s=limit)


def test_deploying_waits_until_the_endpoint_answers(server: Scripted, client: Client) -> None:
    server.answers[f"PUT {API}/endpoints/e"] = [(200, endpoint("pending"))]
    server.answers[f"GET {API}/endpoints/e"] = [(200, endpoint("deploying")), (200, endpoint("ready"))]
    assert client.endpoints.deploy({"name": "e", "model": "m"}).state == "ready"
    assert server.asked[0][3]["model"] == "m@champion"
    server.answers[f"GET {API}/endpoints/e"] = [(200, endpoint("failed", "no weights"))]
    with pytest.raises(LightmillError, match="no weights"):
        client.endpoints.wait("e")
    server.answers[f"GET {API}/endpoints/e"] = [(200, endpoint("deploying"))]
    with pytest.raises(UnavailableError, match="is deploying"):
        client.endpoints.wait("e", timeout_s=0.0)


METADATA = {"name": "e", "versions": ["3"], "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}
ANSWER = {
    "model_name": "e",
    "model_version": "3",
    "outputs": [
        {"name": "probabilities", "datatype": "FP32", "shape": [2, 2], "data": [0.25, 0.75, 1.0, 0.0]},
        {"name": "label", "datatype": "INT64", "shape": [2], "data": [1, 0]},
    ],
}


def test_rows_become_a_tensor_and_answers_become_predictions(server: Scripted, client: Client) -> None:
    server.answers["GET /v2/models/e"] = [(200, METADATA)]
    server.answers["POST /v2/models/e/infer"] = [(200, ANSWER)]
    first, second = client.endpoints.predict("e", [[1, 2], (3, 4)])
    assert (first.label, first.probabilities, first.model_version) == (1, (0.25, 0.75), "3")
    assert (second.label, second.probabilities) == (0, (1.0, 0.0))
    assert server.asked[1][3] == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4]]}]
    }
    client.endpoints.predict("e", [[1, 2], [3, 4]])
    assert [path for _, path, _, _ in server.asked].count("/v2/models/e") == 1
    assert client.endpoints.predict("e", []) == []


def test_an_alias_is_moved_with_its_expectation(server: Scripted, client: Client) -> None:
    asset = {
        "kind": "model",
        "name": "m",
        "mid": "x",
        "versions": 2,
        "latest": 2,
        "created": "a",
        "updated": "b",
        "aliases": {"champion": 2},
    }
    server.answers[f"PUT {API}/models/m/aliases/champion"] = [(200, asset)]
    assert client.models.set_alias("m", "champion", 2, expect=1).aliases == {"champion": 2}
    assert server.asked[0][3] == {"version": 2, "expect": 1}


@pytest.mark.parametrize("reference", ["Bad", "m@", "../m", "m@1/x"])
def test_a_malformed_reference_is_refused_before_it_is_sent(server: Scripted, client: Client, reference: str) -> None:
    with pytest.raises(RequestError):
        client.models.version(reference)
    assert server.asked == []


@pytest.mark.parametrize("name", ["a/b", "a?b=c", "a#b", "ä b", "%2e"])
def test_a_name_stays_one_part_of_the_path(server: Scripted, client: Client, name: str) -> None:
    for ask in (client.jobs.show, client.endpoints.show, client.models.show):
        with pytest.raises(NotFoundError):
            ask(name)
    assert [path.partition("?")[0].rpartition("/")[2] for _, path, _, _ in server.asked] == [quote(name, safe="")] * 3


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_leads_elsewhere_is_refused(server: Scripted, client: Client, name: str) -> None:
    for ask in (client.jobs.show, client.endpoints.show, client.models.show):
        with pytest.raises(RequestError):
            ask(name)
    assert server.asked == []
