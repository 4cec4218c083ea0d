"""Files over HTTP, taken only with their digest."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lightmill.errors import NotFoundError, RequestError, UnavailableError
from tests.unit.datasets.sources.reading import source, values

CONTENT = b"a,b\n1,2\n3,4\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path
        if path.startswith("/loop"):
            self.send_response(302)
            self.send_header("location", "/loop" if path == "/loop" else "/d.csv")
            self.end_headers()
            return
        status = {"/none.csv": 404, "/secret.csv": 403, "/broken.csv": 503}.get(path, 200)
        body = CONTENT if path != "/huge.csv" else b"x" * 100_000
        self.send_response(status)
        self.send_header("content-length", str(len(body) + (50 if path == "/cut.csv" else 0)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_file_with_its_digest_is_read(server: str, tmp_path: Path) -> None:
    for path in ("d.csv", "loop-once"):
        found = source(tmp_path, path=f"{server}/{path}", sha256=SHA256, part_bytes=1)
        assert values(found) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
        (file,) = found.describe()
        assert (file.sha256, file.size_bytes) == (SHA256, len(CONTENT))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "error", "said"),
    [
        ("none.csv", NotFoundError, "404"),
        ("secret.csv", RequestError, "403"),
        ("broken.csv", UnavailableError, "503"),
        ("cut.csv", UnavailableError, "does not answer"),
        ("loop", RequestError, "redirects"),
        ("huge.csv", RequestError, r"more than 5000 bytes; raise limits\.download_bytes"),
        ("d.csv", RequestError, "another file than the one declared"),
    ],
)
def test_what_is_not_the_file_is_refused(server: str, tmp_path: Path, path: str, error: type, said: str) -> None:
    limits = {"download_bytes": 5000}
    found = source(tmp_path, path=f"{server}/{path}", sha256="0" * 64, limits=limits)
    with pytest.raises(error, match=said):
        found.schema()


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        source(tmp_path, path="http://127.0.0.1:1/d.csv", sha256=SHA256).schema()
