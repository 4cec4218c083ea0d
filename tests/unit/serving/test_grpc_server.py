"""The gRPC port: who is read, what is taken, TLS, and what happens where somebody else listens."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from lightmill.errors import AuthenticationError, UnavailableError
from lightmill.launch.tls import write_certificate
from lightmill.serving.asgi import MAX_BODY_BYTES
from lightmill.serving.grpc_server import GrpcAddress, GrpcServer
from lightmill.serving.protocols.generated import open_inference_pb2 as pb
from lightmill.serving.protocols.generated import open_inference_pb2_grpc as stubs
from lightmill.serving.servicer import InferenceServicer
from lightmill.settings import Settings
from tests.unit.serving.protocols.world import TEXT, Joined, service, signature

KEY = (("x-api-key", TEXT),)
WIDE = service(signature("FP32", (-1, 64)), classes=tuple(f"c{n}" for n in range(64)))
ROWS = np.arange(128, dtype=np.float32).reshape(2, 64)


def message(rows: int = 2, raw: bytes = ROWS.tobytes()) -> pb.ModelInferRequest:
    found = pb.ModelInferRequest(model_name="echo", raw_input_contents=[raw])
    found.inputs.add(name="x", datatype="FP32", shape=[rows, 64])
    return found


def with_port(
    calls: Callable[[int], Awaitable[None]], tls: Path | None = None, gate: Any = None, models: Any = None
) -> None:
    async def run() -> None:
        servicer = InferenceServicer(models or Joined(WIDE), gate or WIDE.gate, version="0")
        server = GrpcServer(servicer, GrpcAddress(host="127.0.0.1", port=0, tls=tls))
        port = await server.start()
        try:
            await calls(port)
        finally:
            await server.stop(0)

    asyncio.run(run())


def test_strangers_are_refused_and_told_only_that_the_server_lives() -> None:
    async def calls(port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = stubs.GRPCInferenceServiceStub(channel)
            assert (await stub.ServerLive(pb.ServerLiveRequest())).live
            assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
            for call in (
                stub.ServerMetadata(pb.ServerMetadataRequest()),
                stub.ModelInfer(message()),
                stub.ModelInfer(message(), metadata=(("authorization", "Bearer lm_00000000_wrong"),)),
                stub.RepositoryIndex(pb.RepositoryIndexRequest()),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED, caught.value.details()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stub.ModelStreamInfer(iter([message()])):
                    raise AssertionError("a stranger was answered")
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED

    with_port(calls)


def test_what_a_stranger_sends_is_never_read() -> None:
    """Refused before its message is whole: the message declares 50 MB, of which a few bytes ever come."""

    async def calls(port: int) -> None:
        async def endless() -> Any:
            yield b"x" * 10
            await asyncio.sleep(3600)

        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            path = "/inference.GRPCInferenceService/ModelInfer"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.stream_unary(path)(endless())
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED

    with_port(calls)


def test_a_key_as_metadata_opens_and_a_message_that_is_too_large_is_refused() -> None:
    async def calls(port: int) -> None:
        options = [("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            stub: Any = stubs.GRPCInferenceServiceStub(channel)
            for metadata in (KEY, (("authorization", f"Bearer {TEXT}"),)):
                answer = await stub.ModelInfer(message(), metadata=metadata)
                assert answer.raw_output_contents[0] == ROWS.tobytes()
            rows = 8 << 20 >> 8  # 8 MiB, twice what gRPC takes by itself
            answer = await stub.ModelInfer(message(rows, bytes(8 << 20)), metadata=KEY)
            assert answer.outputs[0].shape == [rows, 64]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ModelInfer(message(1, bytes(MAX_BODY_BYTES)), metadata=KEY)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await stub.ModelReady(pb.ModelReadyRequest(name="echo"), metadata=KEY)).ready

    with_port(calls)


def test_errors_of_a_model_that_is_away_or_late_have_their_statuses() -> None:
    class Away(Joined):
        async def infer(self, name: str, request: Any) -> Any:
            raise UnavailableError("not now")

    async def calls(port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = stubs.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ModelInfer(message(), metadata=KEY)
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, "not now")

    with_port(calls, models=Away(WIDE))


def test_a_key_that_is_revoked_while_a_stream_runs_ends_it() -> None:
    class Fickle:
        """Lets the call in, and its first message, and nothing more."""

        def __init__(self) -> None:
            self.left = 2

        def admit(self, scope: Any) -> str:
            self.left -= 1
            if self.left < 0:
                raise AuthenticationError("The key was revoked.")
            return "caller"

        def release(self, caller: Any) -> None: ...

    async def calls(port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = stubs.GRPCInferenceServiceStub(channel)
            answers = [each async for each in stub.ModelStreamInfer(iter([message(), message()]))]
            assert [each.error_message for each in answers] == ["", "The key was revoked."]

    with_port(calls, gate=Fickle())


def test_tls_with_the_platform_s_certificate(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, tls="generate")
    write_certificate(settings)

    async def calls(port: int) -> None:
        trust = grpc.ssl_channel_credentials(settings.tls_certificate_path.read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{port}", trust) as channel:
            stub: Any = stubs.GRPCInferenceServiceStub(channel)
            assert (await stub.ModelInfer(message(), metadata=KEY)).raw_output_contents
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as plain:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stubs.GRPCInferenceServiceStub(plain).ServerLive(pb.ServerLiveRequest())  # pyright: ignore[reportGeneralTypeIssues]
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

    with_port(calls, tls=settings.tls_path)


def test_a_port_where_somebody_else_listens_is_unavailable() -> None:
    async def run() -> None:
        with socket.socket() as occupied:
            occupied.bind(("127.0.0.1", 0))
            occupied.listen()
            port = occupied.getsockname()[1]
            server = GrpcServer(
                InferenceServicer(Joined(WIDE), WIDE.gate, version="0"),  # pyright: ignore[reportArgumentType]
                GrpcAddress(host="127.0.0.1", port=port),
            )
            with pytest.raises(UnavailableError, match=str(port)):
                await server.start()
            await server.stop()

    asyncio.run(run())
