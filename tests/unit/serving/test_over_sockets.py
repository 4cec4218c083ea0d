"""The service and the gateway under a real server on loopback, asked over real sockets; and gRPC by a real channel."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import uvicorn

from lightmill.serving.asgi import BodyReader
from lightmill.serving.gateway import Gateway
from lightmill.serving.grpc_server import GrpcAddress, GrpcServer
from lightmill.serving.protocols.generated import open_inference_pb2 as pb
from lightmill.serving.protocols.generated import open_inference_pb2_grpc as stubs
from lightmill.serving.servicer import InferenceServicer
from tests.unit.serving.protocols.world import TEXT, Joined, service, signature

WIDE = service(signature("FP32", (-1, 64)), classes=tuple(f"c{n}" for n in range(64)))


class Both:
    """An endpoint's route to its service, all else to the gateway, as HAProxy does it."""

    def __init__(self) -> None:
        bodies = BodyReader(timeout_s=0.2)
        self.service = WIDE
        self.gateway = Gateway(Joined(WIDE), WIDE.gate, bodies=bodies)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v2/models/echo"):
            await self.service(scope | {"root_path": "/v2/models/echo"}, receive, send)
        else:
            await self.gateway(scope, receive, send)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(Both(), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def http(port: int) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TEXT}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
        yield client


ROWS = np.arange(128, dtype=np.float32).reshape(2, 64) / 7


def body(**fields: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 64], "data": ROWS.tolist()}
    return {"inputs": [tensor], **fields}


def test_json_is_answered_and_compressed_for_who_takes_that(http: httpx.Client) -> None:
    plain = http.post("/v2/models/echo/infer", json=body(id="a"), headers={"Accept-Encoding": "identity"})
    assert plain.status_code == 200 and "content-encoding" not in plain.headers
    for encoding in ("gzip", "deflate", "br, gzip;q=0.5"):
        found = http.post("/v2/models/echo/infer", json=body(id="a"), headers={"Accept-Encoding": encoding})
        assert found.headers["content-encoding"] in encoding
        assert found.json() == plain.json() and int(found.headers["content-length"]) < len(plain.content)
    packed = gzip.compress(json.dumps(body(id="a")).encode())
    again = http.post("/v2/models/echo/infer", content=packed, headers={"Content-Encoding": "gzip"})
    assert again.json() == plain.json()


def test_a_large_tensor_goes_both_ways_in_bytes(http: httpx.Client) -> None:
    rows = np.random.default_rng(2).random((8192, 64), dtype=np.float32)
    raw = rows.tobytes()
    entry = {"name": "x", "datatype": "FP32", "shape": [8192, 64], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [entry], "outputs": [{"name": "same", "parameters": {"binary_data": True}}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    answer = http.post("/v2/models/echo/infer", content=head + raw, headers=headers)
    assert answer.status_code == 200, answer.text
    # Bytes are compressed only for who names one encoding: httpx names several by default.
    assert "content-encoding" not in answer.headers
    assert answer.content[int(answer.headers["inference-header-content-length"]) :] == raw


def test_the_gateway_and_the_endpoint_answer_on_one_port(http: httpx.Client, port: int) -> None:
    assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 401
    assert http.get("/v1/models").json() == {"models": ["asleep", "echo"]}
    found = http.post("/v1/models/echo:predict", json={"instances": ROWS.tolist()}).json()["predictions"]
    np.testing.assert_array_equal(np.array([row["same"] for row in found], dtype=np.float32), ROWS)
    assert http.get("/v2/models/echo/stats").json()["model_stats"][0]["inference_count"] > 0


def test_a_body_that_never_comes_is_given_up_and_others_are_served_meanwhile(http: httpx.Client, port: int) -> None:
    head = (
        f"POST /v1/models/echo:predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TEXT}\r\n"
        "Content-Length: 100\r\n\r\n{"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=60) as slow:
        slow.sendall(head.encode())
        assert http.get("/v2/models/echo/ready").status_code == 200
        answer = slow.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408") and b"did not come within 0.2 s" in answer


def test_a_client_that_closes_half_way_harms_nobody(http: httpx.Client, port: int) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as gone:
            gone.sendall(b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nX-API-Key: " + TEXT.encode())
            gone.sendall(b"\r\nContent-Length: 1000\r\n\r\n{")
            gone.shutdown(socket.SHUT_WR)
    assert http.post("/v2/models/echo/infer", json=body()).status_code == 200


def test_the_page_needs_no_key_and_says_nothing_of_the_model(port: int) -> None:
    page = httpx.get(f"http://127.0.0.1:{port}/v2/models/echo/docs")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "script-src 'sha256-" in page.headers["content-security-policy"]
    assert "FP32" not in page.text and "echo" not in page.text and "src=" not in page.text
    assert httpx.get(f"http://127.0.0.1:{port}/v2/models/echo/openapi.json").status_code == 401


# -- gRPC --------------------------------------------------------------------------------------------


async def asked(calls: Any) -> Any:
    """Run `calls(stub)` against a real server on loopback."""
    assert WIDE.gate is not None
    servicer = InferenceServicer(Joined(WIDE), WIDE.gate, version="0")
    server = GrpcServer(servicer, GrpcAddress(host="127.0.0.1", port=0))
    port = await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            return await calls(stubs.GRPCInferenceServiceStub(channel))
    finally:
        await server.stop(0)


KEY = (("authorization", f"Bearer {TEXT}"),)


def message(**changes: Any) -> pb.ModelInferRequest:
    found = pb.ModelInferRequest(model_name="echo", id="r", raw_input_contents=[ROWS.tobytes()])
    found.inputs.add(name="x", datatype="FP32", shape=[2, 64])
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_grpc_over_a_real_channel() -> None:
    async def calls(stub: Any) -> None:
        assert (await stub.ServerLive(pb.ServerLiveRequest())).live
        assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
        assert (await stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=KEY)).name == "lightmill"
        assert (await stub.ModelReady(pb.ModelReadyRequest(name="echo", version="4"), metadata=KEY)).ready
        metadata = await stub.ModelMetadata(pb.ModelMetadataRequest(name="echo"), metadata=KEY)
        assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [("x", "FP32", [-1, 64])]
        index = await stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=KEY)
        assert [(each.name, each.state) for each in index.models] == [("asleep", "UNAVAILABLE"), ("echo", "READY")]
        index = await stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), metadata=KEY)
        assert [each.name for each in index.models] == ["echo"]
        answer = await stub.ModelInfer(message(), metadata=KEY)
        assert answer.id == "r" and answer.raw_output_contents[0] == ROWS.tobytes()
        stream = stub.ModelStreamInfer(iter([message(id="1"), message(id="2", model_name="no")]), metadata=KEY)
        answers = [each async for each in stream]
        assert [each.infer_response.id for each in answers] == ["1", "2"]
        assert "'no'" in answers[1].error_message and not answers[0].error_message

    asyncio.run(asked(calls))


def typed(**contents: Any) -> pb.ModelInferRequest:
    found = pb.ModelInferRequest(model_name="echo")
    found.inputs.add(name="x", datatype="FP32", shape=[1, 64], contents=pb.InferTensorContents(**contents))
    return found


def other(name: str = "x", datatype: str = "FP32", shape: tuple[int, ...] = (2, 64)) -> pb.ModelInferRequest:
    found = pb.ModelInferRequest(model_name="echo", raw_input_contents=[ROWS.tobytes()])
    found.inputs.add(name=name, datatype=datatype, shape=shape)
    return found


def test_grpc_errors_are_statuses_that_name_the_field() -> None:
    both = message()
    both.inputs[0].contents.fp32_contents.append(1)
    extra = message()
    extra.raw_input_contents.append(b"")
    unset = message()
    unset.parameters["p"].CopyFrom(pb.InferParameter())
    output = message()
    output.outputs.add(name="none")
    cases: list[tuple[Any, Any, grpc.StatusCode, str]] = [
        (message(), (), grpc.StatusCode.UNAUTHENTICATED, "API key"),
        (message(model_name="none"), KEY, grpc.StatusCode.NOT_FOUND, "'none'"),
        (message(model_version="3"), KEY, grpc.StatusCode.NOT_FOUND, "version 4, not '3'"),
        (pb.ModelInferRequest(model_name="echo"), KEY, grpc.StatusCode.INVALID_ARGUMENT, "'inputs'"),
        (other(name="y"), KEY, grpc.StatusCode.INVALID_ARGUMENT, "'y'"),
        (other(datatype="FP64"), KEY, grpc.StatusCode.INVALID_ARGUMENT, "inputs['x'].datatype"),
        (other(datatype="?"), KEY, grpc.StatusCode.INVALID_ARGUMENT, "inputs['x'].datatype"),
        (other(shape=(2, 63)), KEY, grpc.StatusCode.INVALID_ARGUMENT, "inputs['x'].shape"),
        (other(shape=(-1, 64)), KEY, grpc.StatusCode.INVALID_ARGUMENT, "inputs['x'].shape"),
        (other(shape=(3, 64)), KEY, grpc.StatusCode.INVALID_ARGUMENT, "512 bytes"),
        (typed(fp32_contents=[1]), KEY, grpc.StatusCode.INVALID_ARGUMENT, "1 values"),
        (typed(fp64_contents=[1] * 64), KEY, grpc.StatusCode.INVALID_ARGUMENT, "fp32_contents"),
        (typed(fp32_contents=[float("nan")] * 64), KEY, grpc.StatusCode.INVALID_ARGUMENT, "NaN"),
        (both, KEY, grpc.StatusCode.INVALID_ARGUMENT, "both contents and raw_input_contents"),
        (extra, KEY, grpc.StatusCode.INVALID_ARGUMENT, "'raw_input_contents'"),
        (unset, KEY, grpc.StatusCode.INVALID_ARGUMENT, "parameters.p"),
        (output, KEY, grpc.StatusCode.INVALID_ARGUMENT, "'none'"),
    ]

    async def calls(stub: Any) -> None:
        for sent, key, code, words in cases:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ModelInfer(sent, metadata=key)
            assert caught.value.code() == code, caught.value.details()
            assert words in caught.value.details(), caught.value.details()
        for call in (
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m"), metadata=KEY),
            stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="m"), metadata=KEY),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            assert "lightmill deploy" in caught.value.details()

    asyncio.run(asked(calls))


def test_typed_integers_out_of_range_are_refused_and_never_wrapped() -> None:
    small = service(signature("INT8", (-1,)))
    sent = pb.ModelInferRequest(model_name="echo")
    sent.inputs.add(name="x", datatype="INT8", shape=[1], contents=pb.InferTensorContents(int_contents=[300]))

    class Context:
        details = ""

        def invocation_metadata(self) -> Any:
            return KEY

        def set_code(self, code: Any) -> None:
            self.code = code

        def set_details(self, details: str) -> None:
            self.details = details

    context = Context()
    asyncio.run(InferenceServicer(Joined(small), small.gate, version="0").ModelInfer(sent, grpc_context=context))
    assert context.code == grpc.StatusCode.INVALID_ARGUMENT and "-128 to 127" in context.details
