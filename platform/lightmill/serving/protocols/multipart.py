"""The parts of a `multipart/form-data` body, as views of it. Sources: RFC 2046 section 5.1, RFC 7578."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lightmill.errors import RequestError
from lightmill.serving.tensors import Body

MAX_PARTS = 1024
_HEADER_BYTES = 4096
_BOUNDARY_CHARACTERS = 70
_PARAMETER = re.compile(r';\s*([a-z0-9*_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One field of a form; `file` is its file name, None for a field without one."""

    name: str
    file: str | None
    content: memoryview


def parts_of(body: Body, boundary: str) -> list[Part]:
    """Return the parts of a body in order.

    Raises:
        RequestError: The boundary is none, the body is not closed by it, a part has no name, or there are too many.
    """
    if not boundary or len(boundary) > _BOUNDARY_CHARACTERS or not boundary.isascii():
        raise RequestError("Header Content-Type must say a 'boundary' of 1 to 70 characters for multipart/form-data.")
    delimiter = b"--" + boundary.encode()
    view, found = memoryview(body), []
    at = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter) + 2
    if at == 1:
        raise RequestError(f"The multipart body does not hold its boundary {boundary!r}.")
    while True:
        at += len(delimiter)
        if body[at : at + 2] == b"--":
            return found
        start = body.find(b"\r\n", at)
        end = body.find(b"\r\n" + delimiter, at)
        if start < 0 or end < start or body[at:start].strip(b" \t"):
            raise RequestError(
                f"The multipart body is not closed by '--{boundary}--'; its part {len(found)} is cut off."
            )
        if len(found) == MAX_PARTS:
            raise RequestError(f"The multipart body has more than {MAX_PARTS} parts; send fewer at once.")
        found.append(_part(view, body, start + 2, end, len(found)))
        at = end + 2


def _part(view: memoryview, body: Body, start: int, end: int, place: int) -> Part:
    blank = body.find(b"\r\n\r\n", start - 2, min(end + 2, start + _HEADER_BYTES))
    if blank < 0:
        raise RequestError(f"Part {place} of the multipart body has no blank line after its headers.")
    for line in bytes(body[start:blank]).decode("utf-8", "replace").split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-disposition":
            parameters = parameters_of(value)
            if "name" in parameters:
                content = view[min(blank + 4, end) : end]
                return Part(name=parameters["name"], file=parameters.get("filename"), content=content)
    raise RequestError(f"Part {place} of the multipart body has no 'Content-Disposition: form-data; name=\"...\"'.")


def parameters_of(value: str) -> dict[str, str]:
    """Return the parameters of a header's value, by names in lower case."""
    return {
        name.lower(): plain or re.sub(r"\\(.)", r"\1", quoted or "")
        for name, quoted, plain in _PARAMETER.findall(value)
    }
