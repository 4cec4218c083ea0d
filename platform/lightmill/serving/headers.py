"""Headers of every answer, as raw ASGI pairs: safety, request ids, when to come again, and pages of other origins."""

from __future__ import annotations

import itertools
import math
import re
import secrets
from collections.abc import Sequence

RawHeaders = tuple[tuple[bytes, bytes], ...]

SECURITY_HEADERS: RawHeaders = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
"""For answers that no browser should keep, guess the type of, or run; the page of documentation needs others."""

REQUEST_ID = b"x-request-id"
ALLOWED_HEADERS = b"authorization, content-type, x-api-key, x-request-id, traceparent, inference-header-content-length"
EXPOSED_HEADERS = b"x-request-id, retry-after, inference-header-content-length"
PREFLIGHT_AGE_S = 600
_WELL_FORMED = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class RequestIds:
    """Names requests: the name that the client gave if it is well-formed, else a new one.

    A new one is random for this process and counted within it, which takes a tenth of a random one's time.
    """

    __slots__ = ("_next", "_prefix")

    def __init__(self, prefix: bytes | None = None) -> None:
        self._prefix = prefix or secrets.token_hex(8).encode()
        self._next = itertools.count(1).__next__

    def name(self, given: bytes | None) -> bytes:
        """Return the id of a request whose header `x-request-id` is `given`."""
        if given is not None and _WELL_FORMED.fullmatch(given):
            return given
        return b"%s-%x" % (self._prefix, self._next())


def retry_after(seconds: float) -> tuple[bytes, bytes]:
    """Return the header that says when to come again: whole seconds, at least one (RFC 9110, 10.2.3)."""
    return b"retry-after", b"%d" % max(1, math.ceil(seconds))


class Cors:
    """Which pages of other origins may read answers (Fetch standard, CORS protocol); none unless named.

    Cookies are never asked for, so `*` gives a page nothing that its reader's key would not.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    def __bool__(self) -> bool:
        return bool(self._origins)

    def answer(self, origin: bytes | None) -> RawHeaders:
        """Return the headers of an answer to a page of this origin; none if it may not read it."""
        if origin is None or not (self._any or origin in self._origins):
            return ()
        allowed = b"*" if self._any else origin
        return (
            (b"access-control-allow-origin", allowed),
            (b"access-control-expose-headers", EXPOSED_HEADERS),
            (b"vary", b"origin"),
        )

    def preflight(self, origin: bytes | None) -> RawHeaders:
        """Return the headers of an answer to OPTIONS, by which a browser asks whether it may ask."""
        found = self.answer(origin)
        if not found:
            return ()
        return (
            *found,
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-allow-headers", ALLOWED_HEADERS),
            (b"access-control-max-age", b"%d" % PREFLIGHT_AGE_S),
        )
