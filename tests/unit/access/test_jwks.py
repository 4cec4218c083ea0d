"""Where the keys of issuers come from, over a real port and from files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lightmill.access.jwks import JWKS_MAX_BYTES, RETRY_S, IssuerBook, fetch_jwks, load_issuers
from lightmill.errors import NotFoundError, RequestError, UnavailableError
from lightmill.records.access import JwtIssuer
from tests.unit.access.issuing import ISSUER, jwks


class Answers(ThreadingHTTPServer):
    status, body = 200, b""


class _Handler(BaseHTTPRequestHandler):
    server: Answers

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.send_header("location", "http://127.0.0.1:9/elsewhere")
        self.send_header("content-length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[Answers]:
    with Answers(("127.0.0.1", 0), _Handler) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def at(url: str) -> JwtIssuer:
    return JwtIssuer.model_validate({**ISSUER.model_dump(), "jwks": url})


def test_keys_are_read_from_a_url(server: Answers) -> None:
    server.body = jwks("ec").encode()
    assert fetch_jwks(at(f"http://127.0.0.1:{server.server_port}/keys")) == jwks("ec")


@pytest.mark.parametrize("status", [302, 404, 500])
def test_any_other_answer_is_unavailable_and_no_redirect_is_followed(server: Answers, status: int) -> None:
    server.status = status
    with pytest.raises(UnavailableError, match=f"answered with {status}"):
        fetch_jwks(at(f"http://127.0.0.1:{server.server_port}/keys"))


def test_a_long_answer_is_cut_off(server: Answers) -> None:
    server.body = b"x" * (JWKS_MAX_BYTES + 1)
    with pytest.raises(UnavailableError, match="more than"):
        fetch_jwks(at(f"http://127.0.0.1:{server.server_port}/keys"))


def test_a_file_is_read_and_a_missing_one_named(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(jwks("ec"))
    assert fetch_jwks(at(str(tmp_path / "keys.json"))) == jwks("ec")
    with pytest.raises(UnavailableError, match="nowhere.json"):
        fetch_jwks(at(str(tmp_path / "nowhere.json")))


class Script:
    """Fetches what the test wrote down; raises where that is an error."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers, self.asked = list(answers), 0

    def __call__(self, issuer: JwtIssuer) -> str:
        self.asked += 1
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, Exception):
            raise found
        return found


def test_keys_are_kept_until_their_time_and_over_failures() -> None:
    now = [0.0]
    script = Script(jwks("ec"), UnavailableError("away"), "nonsense", jwks("rsa"))
    book = IssuerBook([ISSUER], script, clock=lambda: now[0])
    assert book.trusted() == ()
    assert book.renew() and [each.jwks for each in book.trusted()] == [jwks("ec")]
    assert not book.renew() and script.asked == 1
    now[0] = ISSUER.refresh_s
    assert not book.renew() and [each.jwks for each in book.trusted()] == [jwks("ec")]
    now[0] += RETRY_S
    assert not book.renew() and [each.jwks for each in book.trusted()] == [jwks("ec")]
    now[0] += RETRY_S
    assert book.renew() and [each.jwks for each in book.trusted()] == [jwks("rsa")]
    assert script.asked == 4


def test_issuers_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "issuers.yaml"
    assert load_issuers(None) == ()
    with pytest.raises(NotFoundError, match="LIGHTMILL_JWT_ISSUERS"):
        load_issuers(path)
    path.write_text("issuers:\n- {issuer: i, audience: a, jwks: keys.json, algorithms: [ES256]}\n")
    assert [found.issuer for found in load_issuers(path)] == ["i"]
    path.write_text("issuers: [{issuer: i, audience: a, jwks: k, algorithms: [none]}]")
    with pytest.raises(RequestError, match=r"issuers.0.algorithms"):
        load_issuers(path)
    path.write_text("a: [")
    with pytest.raises(RequestError, match="not valid YAML"):
        load_issuers(path)
