"""A file over HTTP(S), taken only if its digest is the declared one.

It is held in memory, never on a disk, and at most `limit` bytes of it. The last file of a process is kept, so
that a schema, a count and a read fetch it once.
"""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache

import httpx

from lightmill.errors import NotFoundError, RequestError, UnavailableError

TIMEOUT_S = 60.0
MAX_REDIRECTS = 5
NOT_FOUND = 404
SERVER_ERROR = 500
CLIENT_ERROR = 400


def fetch(url: str, sha256: str, limit: int) -> io.BytesIO:
    """Return the file.

    Raises:
        NotFoundError: The server has no such file.
        RequestError: Its digest is another one, it is larger than `limit`, or the server refuses.
        UnavailableError: The server does not answer; a retry may succeed.
    """
    return io.BytesIO(_fetched(url, sha256, limit))


@lru_cache(maxsize=1)
def _fetched(url: str, sha256: str, limit: int) -> bytes:
    digest, data = hashlib.sha256(), bytearray()
    try:
        with (
            httpx.Client(follow_redirects=True, max_redirects=MAX_REDIRECTS, timeout=TIMEOUT_S) as client,
            client.stream("GET", url, headers={"accept-encoding": "identity"}) as answer,
        ):
            _check_status(url, answer.status_code)
            for piece in answer.iter_raw():
                data += piece
                digest.update(piece)
                if len(data) > limit:
                    raise RequestError(
                        f"{url} has more than {limit} bytes; raise limits.download_bytes, or keep it in a store."
                    )
    except httpx.TooManyRedirects as exc:
        raise RequestError(f"{url} redirects more than {MAX_REDIRECTS} times; give the address of the file.") from exc
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
        raise RequestError(f"{url} is no http(s) address of a file: {exc}.") from exc
    except httpx.HTTPError as exc:
        raise UnavailableError(f"{url} does not answer: {exc}. Try again.") from exc
    if digest.hexdigest() != sha256:
        raise RequestError(
            f"{url} has the SHA-256 {digest.hexdigest()}, not {sha256}; it is another file than the one declared. "
            "If that is right, change sha256."
        )
    return bytes(data)


def _check_status(url: str, status: int) -> None:
    if status == NOT_FOUND:
        raise NotFoundError(f"No file at {url}: the server answers 404.")
    if status >= SERVER_ERROR:
        raise UnavailableError(f"{url} does not answer: status {status}. Try again.")
    if status >= CLIENT_ERROR:
        raise RequestError(f"{url} is refused with status {status}; it must be readable without a login.")
