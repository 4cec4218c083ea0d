"""What NVIDIA's client sends is read, byte for byte.

`tritonclient_2_73.jsonl` holds what tritonclient 2.73.0 (PyPI; grpcio 1.85.1, protobuf 6.33.6) sent to a server of
these services when it asked for `ROWS` below: over HTTP with binary and JSON data, without compression, with gzip and
with deflate, with and without named outputs, once for two classes, and once with three values where the model takes
four; and over gRPC by `infer`. Bodies are base64.
"""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightmill.serving.protocols import binary
from lightmill.serving.protocols.generated import open_inference_pb2 as pb
from lightmill.serving.servicer import InferenceServicer
from tests.unit.serving.protocols.test_every_protocol import Context
from tests.unit.serving.protocols.world import Joined, ask, service, signature

RECORDED = [json.loads(line) for line in Path(__file__).with_name("tritonclient_2_73.jsonl").read_text().splitlines()]
HTTP = [each for each in RECORDED if each["kind"] == "http"]
GRPC = [each for each in RECORDED if each["kind"] == "grpc"]
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4) / 3
APP = service(signature("FP32", (-1, 4)), classes=("a", "b", "c", "d"))
BEST = [["1.000000:3:d", "0.666667:2:c"], ["2.333333:3:d", "2.000000:2:c"]]


def test_there_are_all_kinds() -> None:
    encodings = {dict(each["headers"]).get("content-encoding") for each in HTTP}
    assert encodings == {None, "gzip", "deflate"} and len(HTTP) >= 14 and len(GRPC) >= 2


def outputs_of(answer: Any) -> dict[str, Any]:
    """Return the outputs as the client does."""
    length = answer.headers.get(b"inference-header-content-length")
    at = int(length) if length else len(answer.body)
    found = {}
    for output in json.loads(answer.body[:at])["outputs"]:
        if "data" in output:
            found[output["name"]] = np.reshape(output["data"], output["shape"])
            continue
        size = output["parameters"]["binary_data_size"]
        block = answer.body[at : at + size]
        found[output["name"]] = binary.decode(block, output["shape"], output["datatype"], output["name"])
        at += size
    assert at == len(answer.body) or not length
    return found


@pytest.mark.parametrize("recorded", HTTP, ids=lambda each: base64.b64decode(each["body"])[:12].hex())
def test_http(recorded: dict[str, Any]) -> None:
    headers = [(name.encode(), value.encode()) for name, value in recorded["headers"]]
    body = base64.b64decode(recorded["body"])
    answer = ask(APP, body, headers=headers)
    if b'"shape":[2,3]' in body:
        assert answer.status == 400 and b"[2, 3]" in answer.body
        return
    assert answer.status == 200, answer.body
    same = outputs_of(answer)["same"]
    if same.dtype.kind in "OU":
        assert [[str(each if isinstance(each, str) else each.decode()) for each in row] for row in same] == BEST
    else:
        np.testing.assert_array_equal(same.astype(np.float32), ROWS)


@pytest.mark.parametrize("recorded", GRPC, ids=lambda each: each["body"][:16])
def test_grpc(recorded: dict[str, Any]) -> None:
    message = pb.ModelInferRequest.FromString(base64.b64decode(recorded["body"]))
    context = Context()
    servicer = InferenceServicer(Joined(APP), APP.gate, version="0")
    answer = asyncio.run(servicer.ModelInfer(message, grpc_context=context))
    if not message.raw_input_contents:
        assert "0 values" in context.details
        return
    assert context.code is None, context.details
    output = answer.outputs[0]
    found = binary.decode(answer.raw_output_contents[0], list(output.shape), output.datatype, "same")
    if output.datatype == "BYTES":
        assert [[each.decode() for each in row] for row in found] == BEST
    else:
        np.testing.assert_array_equal(found, ROWS)
