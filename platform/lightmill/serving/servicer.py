"""The servicer of `inference.GRPCInferenceService`; `grpc_server` puts it on a port.

An error is a status on the context of the call.
"""

# ruff: noqa: N802 - methods are found by the names that the protocol gives them

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

import grpc

from lightmill.errors import LightmillError, NotOfferedError
from lightmill.serving.asgi import Gate
from lightmill.serving.endpoints import Endpoints, check_version
from lightmill.serving.protocols import grpc as messages
from lightmill.serving.protocols import oip
from lightmill.serving.protocols.generated import open_inference_pb2 as pb

SERVER = "lightmill"
SERVICE = "inference.GRPCInferenceService"
_STATUS = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
logger = logging.getLogger("lightmill.serving")


class InferenceServicer:
    """Answers `inference.GRPCInferenceService` for all endpoints of a platform."""

    def __init__(self, endpoints: Endpoints, gate: Gate, *, version: str) -> None:
        self.gate = gate
        self._endpoints = endpoints
        self._version = version

    async def ServerLive(self, request: Any, grpc_context: Any) -> pb.ServerLiveResponse:
        """Tell everybody that the server lives."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, grpc_context: Any) -> pb.ServerReadyResponse:
        """Tell everybody that the server is ready."""
        return pb.ServerReadyResponse(ready=True)

    async def ServerMetadata(self, request: Any, grpc_context: Any) -> pb.ServerMetadataResponse:
        """Return name, version and extensions."""

        async def answer() -> pb.ServerMetadataResponse:
            return pb.ServerMetadataResponse(name=SERVER, version=self._version, extensions=oip.EXTENSIONS)

        return await self._guarded("ServerMetadata", answer, grpc_context, pb.ServerMetadataResponse)

    async def ModelReady(self, request: pb.ModelReadyRequest, grpc_context: Any) -> pb.ModelReadyResponse:
        """Return whether an endpoint is ready."""

        async def answer() -> pb.ModelReadyResponse:
            check_version(await self._endpoints.describe(request.name), request.version)
            return pb.ModelReadyResponse(ready=True)

        return await self._guarded("ModelReady", answer, grpc_context, pb.ModelReadyResponse)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, grpc_context: Any) -> pb.ModelMetadataResponse:
        """Return an endpoint's inputs and outputs."""

        async def answer() -> pb.ModelMetadataResponse:
            model = await self._endpoints.describe(request.name)
            check_version(model, request.version)
            return messages.metadata(model)

        return await self._guarded("ModelMetadata", answer, grpc_context, pb.ModelMetadataResponse)

    async def ModelInfer(self, request: pb.ModelInferRequest, grpc_context: Any) -> pb.ModelInferResponse:
        """Return an endpoint's answer."""
        return await self._guarded("ModelInfer", lambda: self._infer(request), grpc_context, pb.ModelInferResponse)

    async def ModelStreamInfer(
        self, request: AsyncIterator[pb.ModelInferRequest], grpc_context: Any
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Return an answer for each request in order; what is wrong with one is told in its answer."""
        async for each in request:
            try:
                caller = self.gate.admit(_scope("ModelStreamInfer", grpc_context))
                try:
                    yield pb.ModelStreamInferResponse(infer_response=await self._infer(each))
                finally:
                    self.gate.release(caller)
            except LightmillError as exc:
                # The id tells a client which of its requests it was.
                answer = pb.ModelInferResponse(id=each.id)
                yield pb.ModelStreamInferResponse(error_message=exc.message, infer_response=answer)

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, grpc_context: Any
    ) -> pb.RepositoryIndexResponse:
        """Return all endpoints."""

        async def answer() -> pb.RepositoryIndexResponse:
            found = pb.RepositoryIndexResponse()
            for each in self._endpoints.listed():
                if each.ready or not request.ready:
                    state = "READY" if each.ready else "UNAVAILABLE"
                    found.models.add(name=each.name, version=each.version, state=state, reason=each.reason)
            return found

        return await self._guarded("RepositoryIndex", answer, grpc_context, pb.RepositoryIndexResponse)

    async def RepositoryModelLoad(self, request: Any, grpc_context: Any) -> pb.RepositoryModelLoadResponse:
        """Refuse: endpoints are deployed."""
        return await self._guarded("RepositoryModelLoad", _refuse, grpc_context, pb.RepositoryModelLoadResponse)

    async def RepositoryModelUnload(self, request: Any, grpc_context: Any) -> pb.RepositoryModelUnloadResponse:
        """Refuse: endpoints are deleted."""
        return await self._guarded("RepositoryModelUnload", _refuse, grpc_context, pb.RepositoryModelUnloadResponse)

    async def _infer(self, message: pb.ModelInferRequest) -> pb.ModelInferResponse:
        model = await self._endpoints.describe(message.model_name)
        check_version(model, message.model_version)
        request = messages.parse(message, model)
        response = await self._endpoints.infer(model.name, request)
        return messages.write(replace(response, id=request.id))

    async def _guarded(
        self, method: str, answer: Callable[[], Awaitable[Any]], context: Any, empty: Callable[[], Any]
    ) -> Any:
        """Return an answer, or an empty one and a status on the context, which is logged as no fault of ours."""
        try:
            caller = self.gate.admit(_scope(method, context))
            try:
                return await answer()
            finally:
                self.gate.release(caller)
        except LightmillError as exc:
            context.set_code(status_of(exc))
            context.set_details(exc.message)
        except Exception:
            logger.exception("a gRPC request failed")
            context.set_code(grpc.StatusCode.INTERNAL)
            context.set_details("The model failed on this request; the replica's log says why.")
        return empty()


async def _refuse() -> Any:
    raise NotOfferedError(
        "Models are not loaded and unloaded by this protocol: deploy an endpoint ('lightmill deploy'), or delete it."
    )


def status_of(exc: LightmillError) -> grpc.StatusCode:
    """Return what an error is in gRPC."""
    return _STATUS.get(exc.status, grpc.StatusCode.INVALID_ARGUMENT)


def scope_of(path: str, metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, Any]:
    """Return what a gate looks at, as HTTP would have it."""
    headers = [
        (key.lower().encode(), value if isinstance(value, bytes) else value.encode()) for key, value in metadata or ()
    ]
    return {"type": "grpc", "method": "POST", "path": path, "headers": headers}


def _scope(method: str, context: Any) -> dict[str, Any]:
    return scope_of(f"/{SERVICE}/{method}", context.invocation_metadata())
