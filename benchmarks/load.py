"""A load of closed-loop clients in a process of its own: each sends, waits for the answer, sends again."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit


def drive(url: str, key: str, body: bytes, *, clients: int, seconds: float) -> tuple[int, float]:
    """Return how many requests were answered with 200, and the seconds it took.

    Raises:
        SystemExit: An answer was not 200.
    """
    plan = json.dumps({"url": url, "key": key, "body": body.decode(), "clients": clients, "seconds": seconds})
    done = subprocess.run([sys.executable, __file__], input=plan, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    return found["requests"], found["seconds"]


def _client(plan: dict[str, object], request: bytes, end: float, counts: list[int]) -> None:
    parts = urlsplit(str(plan["url"]))
    count = 0
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while time.perf_counter() < end:
            connection.sendall(request)
            _read_answer(connection)
            count += 1
    counts.append(count)


def _read_answer(connection: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"not answered: {head[:200]!r} {body[:300]!r}")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)


def main() -> None:
    """Read a plan from standard input, drive it, print what came of it."""
    plan = json.loads(sys.stdin.read())
    parts = urlsplit(plan["url"])
    body = plan["body"].encode()
    request = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nX-API-Key: {plan['key']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    counts: list[int] = []
    started = time.perf_counter()
    end = started + plan["seconds"]
    threads = [threading.Thread(target=_client, args=(plan, request, end, counts)) for _ in range(plan["clients"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(counts) != plan["clients"]:
        raise SystemExit("a client failed")
    sys.stdout.write(json.dumps({"requests": sum(counts), "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
