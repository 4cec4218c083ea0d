"""A tiny object server over HTTP, in memory, that speaks as much of three dialects as our client uses.

`s3` (ListObjectsV2), `gs` (the XML API of Google Cloud Storage) and `az` (Azure Blob Storage). It checks no
signature. It can be told to ignore the condition of a put, as some S3 servers do.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

WHEN = "Sun, 22 Nov 2026 05:00:00 GMT"
WHEN_ISO = "2026-11-22T05:00:00.000Z"
CONDITIONS = {"s3": ("If-None-Match", "*"), "gs": ("x-goog-if-generation-match", "0"), "az": ("If-None-Match", "*")}
EXISTS = {"s3": (412, "PreconditionFailed"), "gs": (412, "PreconditionFailed"), "az": (409, "BlobAlreadyExists")}


class TinyServer(ThreadingHTTPServer):
    """The server and its objects, by path ("bucket/name")."""

    daemon_threads = True

    def __init__(self, dialect: str, *, conditional: bool = True, page: int = 1000) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.dialect = dialect
        self.conditional = conditional
        self.page = page
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.seen: list[tuple[str, str, dict[str, str]]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def tiny_server(dialect: str, *, conditional: bool = True, page: int = 1000) -> Iterator[TinyServer]:
    """Run a server in a thread of its own."""
    with TinyServer(dialect, conditional=conditional, page=page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: TinyServer

    def log_message(self, *args: object) -> None:
        return

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def _begin(self) -> tuple[str, dict[str, list[str]]]:
        url = urlsplit(self.path)
        self.server.seen.append((self.command, self.path, dict(self.headers.items())))
        return unquote(url.path).strip("/"), parse_qs(url.query, keep_blank_values=True)

    def _send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, size: int = -1) -> None:
        self.send_response(status)
        shown = {"Last-Modified": WHEN, "ETag": '"e"', "Content-Length": str(len(body) if size < 0 else size)}
        for name, value in (shown | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _fail(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self._send(status, body, {"Content-Type": "application/xml"})

    def do_PUT(self) -> None:
        path, _ = self._begin()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        header, value = CONDITIONS[self.server.dialect]
        with self.server.lock:
            asked = self.server.conditional and self.headers.get(header) == value
            taken = asked and path in self.server.objects
            if not taken:
                self.server.objects[path] = body
        if taken:
            self._fail(*EXISTS[self.server.dialect])
        else:
            self._send(201 if self.server.dialect == "az" else 200, headers={"x-goog-generation": "1"})

    def do_DELETE(self) -> None:
        path, _ = self._begin()
        with self.server.lock:
            gone = self.server.objects.pop(path, None) is None
        if gone and self.server.dialect != "s3":
            self._fail(404, "BlobNotFound" if self.server.dialect == "az" else "NoSuchKey")
        else:
            self._send(202 if self.server.dialect == "az" else 204)

    def do_POST(self) -> None:
        """Azure's batch, of deletions only: a multipart body of requests, and of answers."""
        self._begin()
        parts = self.rfile.read(int(self.headers["Content-Length"])).decode()
        answers = []
        for number, path in enumerate(re.findall(r"^DELETE (\S+) HTTP", parts, re.MULTILINE)):
            with self.server.lock:
                gone = self.server.objects.pop(unquote(urlsplit(path).path).strip("/"), None) is None
            answers.append(
                f"--answer\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\n"
                f"HTTP/1.1 {'404 The specified blob does not exist.' if gone else '202 Accepted'}\r\n"
                + ("x-ms-error-code: BlobNotFound\r\n" if gone else "")
                + "Content-Length: 0\r\n\r\n\r\n"
            )
        body = "".join([*answers, "--answer--\r\n"]).encode()
        self._send(202, body, {"Content-Type": "multipart/mixed; boundary=answer"})

    def do_HEAD(self) -> None:
        path, _ = self._begin()
        found = self.server.objects.get(path)
        if found is None:
            self._send(404)
        else:
            self._send(200, size=len(found))

    def do_GET(self) -> None:
        path, query = self._begin()
        if "list-type" in query or query.get("comp") == ["list"]:
            self._list(path, query)
            return
        found = self.server.objects.get(path)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("x-ms-range") or self.headers.get("Range") or "")
        if found is None:
            self._fail(404, "BlobNotFound" if self.server.dialect == "az" else "NoSuchKey")
        elif asked is None:
            self._send(200, found)
        elif int(asked[1]) >= len(found):
            self._fail(416, "InvalidRange")
        else:
            start, end = int(asked[1]), min(int(asked[2] or len(found)) + 1, len(found))
            self._send(206, found[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{len(found)}"})

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        def first(*keys: str) -> str:
            return next((query[key][0] for key in keys if query.get(key)), "")

        with self.server.lock:
            names = sorted(path.partition("/")[2] for path in self.server.objects if path.startswith(f"{bucket}/"))
        after = max(first("start-after"), first("continuation-token"), first("marker"))
        found = [name for name in names if name.startswith(first("prefix")) and name > after]
        page, more = found[: self.server.page], len(found) > self.server.page
        sizes = {name: len(self.server.objects.get(f"{bucket}/{name}", b"")) for name in page}
        body = (_azure_page if self.server.dialect == "az" else _s3_page)(sizes, page[-1] if more else "")
        self._send(200, body.encode(), {"Content-Type": "application/xml"})


def _s3_page(sizes: dict[str, int], token: str) -> str:
    entries = "".join(
        f"<Contents><Key>{escape(name)}</Key><LastModified>{WHEN_ISO}</LastModified><ETag>e</ETag>"
        f"<Size>{size}</Size></Contents>"
        for name, size in sizes.items()
    )
    rest = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
    return f"<ListBucketResult><IsTruncated>{str(bool(token)).lower()}</IsTruncated>{entries}{rest}</ListBucketResult>"


def _azure_page(sizes: dict[str, int], token: str) -> str:
    entries = "".join(
        f"<Blob><Name>{escape(name)}</Name><Properties><Last-Modified>{WHEN}</Last-Modified><Etag>e</Etag>"
        f"<Content-Length>{size}</Content-Length><Content-Type>x</Content-Type></Properties></Blob>"
        for name, size in sizes.items()
    )
    return f"<EnumerationResults><Blobs>{entries}</Blobs><NextMarker>{escape(token)}</NextMarker></EnumerationResults>"
