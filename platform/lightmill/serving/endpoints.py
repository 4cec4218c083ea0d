"""The port through which the gateway reaches models: it knows of no transport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lightmill.errors import NotFoundError
from lightmill.serving.tensors import InferRequest, InferResponse, ModelDescription


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedEndpoint:
    """An endpoint as an index of models has it; `reason` says why it is not ready."""

    name: str
    version: str
    ready: bool
    reason: str = ""


class Endpoints(Protocol):
    """The endpoints of a platform. What `describe` says is asked for with every request, so it should be at hand."""

    def listed(self) -> Sequence[ListedEndpoint]:
        """Return all endpoints, by name."""
        ...

    async def describe(self, name: str) -> ModelDescription:
        """Return what an endpoint takes and answers.

        Raises:
            NotFoundError: There is no such endpoint.
            UnavailableError: It does not answer now; trying again may succeed.
        """
        ...

    async def infer(self, name: str, request: InferRequest) -> InferResponse:
        """Return an endpoint's answer.

        Raises:
            NotFoundError: There is no such endpoint.
            RequestError: The request does not fit its model.
            UnavailableError: It does not answer now; trying again may succeed.
        """
        ...


def check_version(model: ModelDescription, version: str) -> None:
    """Check that a version that is asked for, if any, is the one that is served.

    Raises:
        NotFoundError: It is another.
    """
    if version and version != model.version:
        raise NotFoundError(f"Endpoint {model.name!r} serves version {model.version}, not {version!r}.")
