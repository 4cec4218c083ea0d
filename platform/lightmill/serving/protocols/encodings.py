"""Bodies that are compressed on the way: gzip (RFC 1952) and deflate (RFC 1950), bounded in what they expand to."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from lightmill.errors import RequestError, TooLargeError, UnsupportedMediaError
from lightmill.serving.protocols.forms import JSON, Reply
from lightmill.serving.tensors import Body

GZIP = b"gzip"
DEFLATE = b"deflate"
_WINDOW = {GZIP: 31, b"x-gzip": 31, DEFLATE: 15}
_LEVEL = 1
SMALLEST_BYTES = 1024  # below, headers and time cost more than what is saved


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The encoding that a caller takes; `only` if the caller named no other."""

    encoding: bytes
    only: bool


def is_encoded(encoding: bytes | None) -> bool:
    """Return whether a `Content-Encoding` says that a body is not as it is."""
    return encoding is not None and encoding.strip().lower() not in (b"", b"identity")


def expanded(body: Body, encoding: bytes, limit: int) -> bytes:
    """Return a body as it was before its encoding.

    Raises:
        UnsupportedMediaError: The encoding is none of gzip and deflate.
        TooLargeError: It expands to more than `limit` bytes; no more than that is ever allocated.
        RequestError: It is damaged, cut off, or followed by something else.
    """
    name = encoding.strip().lower()
    window = _WINDOW.get(name)
    if window is None:
        raise UnsupportedMediaError(
            f"Header Content-Encoding must be gzip or deflate; given {encoding[:40].decode('latin-1')!r}."
        )
    decompressor = zlib.decompressobj(window)
    try:
        found = decompressor.decompress(body, limit + 1)
    except zlib.error as exc:
        raise RequestError(f"The body is not valid {name.decode()}: {exc}.") from exc
    if len(found) > limit:
        raise TooLargeError(f"The body expands to more than {limit} bytes.")
    if not decompressor.eof:
        raise RequestError(f"The body is not valid {name.decode()}: it is cut off.")
    if decompressor.unused_data:
        raise RequestError(f"The body has {len(decompressor.unused_data)} bytes after its {name.decode()} data.")
    return found


def choice(accepted: bytes) -> Choice | None:
    """Return the first best encoding that `Accept-Encoding` names, None if it names none of ours (RFC 9110, 12.5.3)."""
    found: list[tuple[float, bytes]] = []
    for part in accepted.lower().split(b","):
        name, _, parameters = part.partition(b";")
        if name.strip() in (GZIP, DEFLATE):
            found.append((_quality(parameters), name.strip()))
    best = max(found, key=lambda each: each[0], default=(0.0, b""))
    return Choice(encoding=best[1], only=accepted.count(b",") == 0) if best[0] > 0 else None


def _quality(parameters: bytes) -> float:
    name, _, value = parameters.strip().partition(b"=")
    try:
        return float(value) if name.strip() == b"q" else 1.0
    except ValueError:
        return 0.0


def is_worth_it(reply: Reply, chosen: Choice) -> bool:
    """Return whether to compress: tensors in bytes shrink little, so only for who names one encoding on purpose."""
    return len(reply.body) >= SMALLEST_BYTES and (chosen.only or reply.headers[0][1].startswith(JSON.encode()))


def compressed(reply: Reply, chosen: Choice) -> Reply:
    """Return an answer compressed."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW[chosen.encoding])
    body = compressor.compress(reply.body) + compressor.flush()
    headers = (*reply.headers, (b"content-encoding", chosen.encoding), (b"vary", b"accept-encoding"))
    return replace(reply, body=body, headers=headers)
