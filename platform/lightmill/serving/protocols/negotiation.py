"""Which adapter reads a body and which one writes the answer, by the headers of a request (RFC 9110, section 12).

JSON is never asked to be announced: Triton's client does not, and curl says that it sends a form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl

from lightmill.errors import NotAcceptableError, RequestError, UnsupportedMediaError
from lightmill.serving.protocols import arrow, images, npy, oip, rows
from lightmill.serving.protocols.forms import BINARY, JSON, Form, Parse, Write
from lightmill.serving.protocols.multipart import parameters_of
from lightmill.serving.tensors import Body, WantedOutput, short

_AS_JSON = ("", JSON, BINARY, "text/plain", "text/json", "application/x-www-form-urlencoded")
_PARSERS: dict[str, Parse] = {
    arrow.ARROW: arrow.parse,
    npy.NPY: npy.parse,
    npy.NPZ: npy.parse_npz,
    images.MULTIPART: images.parse,
}
_WRITERS: dict[str, Write] = {
    JSON: oip.write,
    BINARY: oip.write_binary,
    arrow.ARROW: arrow.write,
    npy.NPY: npy.write,
    npy.NPZ: npy.write_npz,
}
_OWN_WRITERS: dict[str, Write] = {arrow.ARROW: arrow.write, npy.NPY: npy.write_npz, npy.NPZ: npy.write_npz}
_PLAIN = Form()
_PLAIN_TYPES = frozenset((None, b"application/json"))
_PLAIN_ANSWERS = frozenset((None, b"*/*", b"application/json"))
_BLANKS = b" \t\r\n"
_NAMES = {
    b"content-type": 0,
    b"accept": 1,
    b"content-encoding": 2,
    b"accept-encoding": 3,
    b"content-length": 4,
    b"inference-header-content-length": 5,
}


class Head(NamedTuple):
    """The headers that decide how a body is read and an answer is written, each None if it was not sent."""

    content_type: bytes | None
    accept: bytes | None
    content_encoding: bytes | None
    accept_encoding: bytes | None
    content_length: bytes | None
    json_length: bytes | None

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> Head:
        """Return what raw ASGI headers (names in lower case) say; of a header that is sent twice the last counts."""
        found: list[bytes | None] = [None] * len(_NAMES)
        for name, value in headers:
            place = _NAMES.get(name)
            if place is not None:
                found[place] = value
        return cls(*found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """How one request is read and answered; `name` is the form's in metrics."""

    parse: Parse
    write: Write
    form: Form
    name: str = "oip"


_OIP = Adapter(parse=oip.parse, write=oip.write, form=_PLAIN)
_FORMS = {"npy": "numpy", "images": "image"}
_ROWS = Adapter(parse=rows.parse, write=rows.write, form=_PLAIN, name="rows")


def adapter_for(head: Head, query: bytes, body: Body, *, by_column: bool) -> Adapter:
    """Return the adapter of a request; a JSON list is rows, where the model takes named columns.

    Raises:
        UnsupportedMediaError: The body's type is not read here.
        NotAcceptableError: No type that the caller accepts is written here.
        RequestError: A header is malformed.
    """
    if head.content_type in _PLAIN_TYPES and head.accept in _PLAIN_ANSWERS and head.json_length is None and not query:
        return _ROWS if by_column and body.lstrip(_BLANKS)[:1] == b"[" else _OIP
    media, parameters = _media(head.content_type)
    form = Form(media=media, parameters=parameters, json_bytes=_json_bytes(head.json_length), outputs=_outputs(query))
    parse = _PARSERS.get(media)
    own = _OWN_WRITERS.get(media, oip.write)
    if parse is None:
        if media not in _AS_JSON and not media.endswith("+json"):
            raise UnsupportedMediaError(
                f"Header Content-Type is {short(media)}; bodies are read as {', '.join([JSON, BINARY, *_PARSERS])}."
            )
        as_rows = by_column and form.json_bytes is None and body.lstrip(_BLANKS)[:1] == b"["
        parse, own = (rows.parse, rows.write) if as_rows else (oip.parse, oip.write)
    module = parse.__module__.rpartition(".")[2]
    return Adapter(parse=parse, write=_writer(head.accept, own), form=form, name=_FORMS.get(module, module))


def _media(content_type: bytes | None) -> tuple[str, dict[str, str]]:
    text = (content_type or b"").decode("latin-1")
    media = text.partition(";")[0].strip().lower()
    return media, parameters_of(text[text.find(";") :]) if ";" in text else {}


def _json_bytes(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise RequestError(
            f"Header Inference-Header-Content-Length must be a number of bytes; given {short(value.decode('latin-1'))}."
        )
    return int(value)


def _outputs(query: bytes) -> tuple[WantedOutput, ...]:
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=64) if query else []
    return tuple(WantedOutput(name=value) for name, value in pairs if name == "output")


def _writer(accept: bytes | None, own: Write) -> Write:
    if accept is None:
        return own
    wanted: list[tuple[float, str]] = []
    for part in accept.decode("latin-1").split(","):
        media, parameters = _media(part.encode("latin-1"))
        try:
            quality = float(parameters.get("q", "1"))
        except ValueError:
            quality = 0.0
        if quality > 0:
            wanted.append((quality, media))
    for _, media in sorted(wanted, key=lambda each: -each[0]):
        if media in ("*/*", "", "application/*"):
            return own
        if media in _WRITERS:
            return own if media == JSON and own is rows.write else _WRITERS[media]
    raise NotAcceptableError(
        f"Header Accept is {short(accept.decode('latin-1'))}; answers are written as {', '.join(_WRITERS)}."
    )
