"""What adapters are given beside a body, and what they give back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lightmill.serving.tensors import Body, InferRequest, InferResponse, ModelDescription, WantedOutput

JSON = "application/json"
BINARY = "application/octet-stream"
Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a body is written: its media type in lower case, and the type's parameters.

    `json_bytes` is the length of the JSON before binary tensors, None where there are none. `outputs` are those that
    the query asks for, for bodies that cannot say it.
    """

    media: str = JSON
    parameters: Mapping[str, str] = field(default_factory=dict)
    json_bytes: int | None = None
    outputs: tuple[WantedOutput, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer as bytes, and the headers that belong to its form, `content-type` first."""

    body: bytes
    headers: tuple[Header, ...]


Parse = Callable[[Body, ModelDescription, Form], InferRequest]
Write = Callable[[InferResponse, InferRequest], Reply]


def content_type(media: str) -> tuple[Header, ...]:
    """Return the header that names a media type."""
    return ((b"content-type", media.encode()),)
