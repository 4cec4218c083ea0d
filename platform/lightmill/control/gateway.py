"""The platform's own doors for inference: protocols that name the model in the path's last segment or in the body.

The gateway runs beside the control API and calls replicas by handle, so that its requests pay a second hop. Who asks is
looked at twice: here, so that strangers learn nothing, and by the replica, which knows scopes, limits and what was
revoked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from lightmill.access import Identifier
from lightmill.access.callers import credentials
from lightmill.catalog import Catalog
from lightmill.control.graphs import scopes, traceparent
from lightmill.datasets.translate import original_error
from lightmill.errors import NotFoundError, UnavailableError
from lightmill.records.endpoints import EndpointState
from lightmill.registry import Registry
from lightmill.serving.application import application_name
from lightmill.serving.asgi import Message, Receive, Scope, Send
from lightmill.serving.endpoints import ListedEndpoint
from lightmill.serving.grpc_server import GrpcServer
from lightmill.serving.tensors import InferRequest, InferResponse, ModelDescription

KNOWN_FOR_S = 0.5
Presented = tuple[bytes | None, bytes | None]
App = Callable[[Scope, Receive, Send], Any]
_presented: ContextVar[Presented] = ContextVar("presented", default=(None, None))


class PlatformGate:
    """Lets in whoever the platform knows, and remembers what the request presents for the replica to look at."""

    def __init__(self, callers: Callable[[], Identifier], clock: Callable[[], float] = time.monotonic) -> None:
        self._callers = callers
        self._clock = clock
        self._known: Identifier | None = None
        self._until_s = 0.0

    def admit(self, scope: Scope) -> Any:
        """Return who asks; AuthenticationError if nobody who is known."""
        now_s = self._clock()
        if self._known is None or now_s >= self._until_s:
            self._known, self._until_s = self._callers(), now_s + KNOWN_FOR_S
        found = credentials(scope["headers"])
        _presented.set(found)
        traceparent.set(next((value for name, value in scope["headers"] if name == b"traceparent"), None))
        identity = self._known.identify(*found)
        scopes.set(identity.scopes)
        return identity

    def release(self, caller: Any) -> None:
        """Do nothing: the replica counts."""


class ServedEndpoints:
    """The endpoints of the catalog, reached by Serve's handles."""

    def __init__(self, catalog: Catalog, registry: Registry) -> None:
        self._catalog = catalog
        self._registry = registry
        self._described: dict[str, ModelDescription] = {}
        self._handles: dict[str, Any] = {}

    def listed(self) -> Sequence[ListedEndpoint]:
        """See `Endpoints`."""
        return [
            ListedEndpoint(
                name=one.name,
                version=str(one.version.seq) if one.version else "",
                ready=one.state is EndpointState.READY,
                reason=one.message,
            )
            for one in self._catalog.endpoints.list()
            if not one.deleted
        ]

    async def describe(self, name: str) -> ModelDescription:
        """See `Endpoints`."""
        return await asyncio.to_thread(self._describe, name)

    async def infer(self, name: str, request: InferRequest) -> InferResponse:
        """See `Endpoints`."""
        try:
            handle = self._handles.get(name)
            if handle is None:
                handle = self._handles[name] = await asyncio.to_thread(serve.get_app_handle, application_name(name))
            return await handle.infer.remote(request, *_presented.get(), traceparent.get())
        except (RayError, RayServeException) as exc:
            original = original_error(exc)
            if original is not None:
                raise original from exc
            self._handles.pop(name, None)
            raise UnavailableError(f"Endpoint {name!r} does not answer now; try again.") from exc

    def _describe(self, name: str) -> ModelDescription:
        found = self._catalog.endpoints.get(name)
        if found.deleted:
            raise NotFoundError(f"Endpoint {name!r} is being deleted.")
        if found.version is None:
            raise UnavailableError(f"Endpoint {name!r} is {found.state}; try again when it is ready.")
        key = f"{name}/{found.version.digest}"
        if key not in self._described:
            card = self._registry.open(found.version).manifest.model
            if card is None:
                raise NotFoundError(f"{found.version} is no model version.")
            self._described = {at: one for at, one in self._described.items() if not at.startswith(f"{name}/")}
            self._described[key] = ModelDescription(
                name=name,
                version=str(found.version.seq),
                signature=card.signature,
                by_column=card.preparation is not None,
                classes=card.classes,
            )
        return self._described[key]


class Doors:
    """Sends `/v1` and `/v2` to the gateway, and what is open to everybody, and all else, to the control API.

    The gRPC port, if there is one, listens as long as the application lives.
    """

    def __init__(self, api: App, gateway: App, grpc: GrpcServer | None = None) -> None:
        self._api = api
        self._gateway = gateway
        self._grpc = grpc

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        path = scope["path"] if scope["type"] == "http" else ""
        if scope["type"] == "lifespan" and self._grpc is not None:
            receive = _living(receive, self._grpc)
        inference = path.startswith(("/v1/", "/v2/")) and not path.startswith("/v2/health/")
        await (self._gateway if inference else self._api)(scope, receive, send)


def _living(receive: Receive, grpc: GrpcServer) -> Receive:
    """Return what tells of an application's start and end, after the port has been opened or closed."""

    async def received() -> Message:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await grpc.start()
        elif message["type"] == "lifespan.shutdown":
            await grpc.stop()
        return message

    return received
