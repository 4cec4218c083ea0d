"""The gRPC port of a platform: a server of our own around `InferenceServicer`, in the process of the gateway.

Serve's own gRPC port finds an application by metadata that no client of the protocol sends; see docs/adr/0010-grpc.md.
Who asks is looked at before a message is read, so that strangers cannot make the process hold what they send.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from lightmill.errors import LightmillError, UnavailableError
from lightmill.serving.asgi import MAX_BODY_BYTES, Gate
from lightmill.serving.protocols.generated import open_inference_pb2 as pb
from lightmill.serving.protocols.generated import open_inference_pb2_grpc as stubs
from lightmill.serving.servicer import SERVICE, InferenceServicer, scope_of, status_of

MAX_CALLS = 64
"""Calls at once, streams too; together they hold at most this many messages."""
GRACE_S = 10.0
_OPEN: dict[str, Callable[[], Any]] = {
    f"/{SERVICE}/ServerLive": lambda: pb.ServerLiveResponse(live=True),
    f"/{SERVICE}/ServerReady": lambda: pb.ServerReadyResponse(ready=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcAddress:
    """Where the port listens; `tls` is a file of certificates and their key in PEM, None for plain text."""

    host: str
    port: int
    tls: Path | None = None


class GrpcServer:
    """Listens between `start` and `stop`, both on one event loop, on which everything is answered."""

    def __init__(self, servicer: InferenceServicer, address: GrpcAddress) -> None:
        self._servicer = servicer
        self._address = address
        self._server: Any = None

    async def start(self) -> int:
        """Listen; return the port, which is chosen freely for port 0.

        Raises:
            UnavailableError: Somebody else listens there.
        """
        limits = [
            ("grpc.max_receive_message_length", MAX_BODY_BYTES),
            ("grpc.max_send_message_length", -1),
        ]
        server: Any = grpc.aio.server(
            interceptors=(_Doorkeeper(self._servicer.gate),), options=limits, maximum_concurrent_rpcs=MAX_CALLS
        )
        stubs.add_GRPCInferenceServiceServicer_to_server(_Methods(self._servicer), server)
        at = f"{self._address.host}:{self._address.port}"
        try:
            if self._address.tls is None:
                port = server.add_insecure_port(at)
            else:
                pem = self._address.tls.read_bytes()
                port = server.add_secure_port(at, grpc.ssl_server_credentials([(pem, pem)]))
        except RuntimeError as exc:
            raise UnavailableError(f"The gRPC port cannot listen at {at}: {exc}") from exc
        await server.start()
        self._server = server
        return port

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Take no more calls, and end those that are not answered in time; without `start` nothing happens."""
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None


class _Methods(stubs.GRPCInferenceServiceServicer):
    """The servicer's methods with the context in second place, as a gRPC server calls them."""

    def __init__(self, servicer: InferenceServicer) -> None:
        for name in stubs.GRPCInferenceServiceServicer.__dict__:
            if not name.startswith("_"):
                setattr(self, name, getattr(servicer, name))


class _Doorkeeper(grpc.aio.ServerInterceptor):
    """Refuses strangers, and answers what is open to them, without reading what they send.

    The server takes a message only when a method that streams asks for it.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the method that answers a call."""
        method = handler_call_details.method
        if method in _OPEN:
            return grpc.stream_unary_rpc_method_handler(_answering(_OPEN[method]))
        try:
            self._gate.release(self._gate.admit(scope_of(method, handler_call_details.invocation_metadata)))
        except LightmillError as exc:
            return grpc.stream_unary_rpc_method_handler(_refusing(exc))
        return await continuation(handler_call_details)


def _answering(answer: Callable[[], Any]) -> Callable[[AsyncIterator[bytes], Any], Awaitable[bytes]]:
    async def answered(messages: AsyncIterator[bytes], context: Any) -> bytes:
        return answer().SerializeToString()

    return answered


def _refusing(exc: LightmillError) -> Callable[[AsyncIterator[bytes], Any], Awaitable[Any]]:
    async def refused(messages: AsyncIterator[bytes], context: Any) -> Any:
        await context.abort(status_of(exc), exc.message)

    return refused
