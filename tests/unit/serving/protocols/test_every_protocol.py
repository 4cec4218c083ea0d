"""Random tensors give equal answers, bit by bit, through every protocol."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lightmill.models.inputs import input_specs
from lightmill.records.fitted import FittedImpute, FittedPreparation, InputColumn, TabularPreparation
from lightmill.records.preparation import Features
from lightmill.records.signature import Datatype
from lightmill.serving.gateway import Gateway
from lightmill.serving.protocols.generated import open_inference_pb2 as pb
from lightmill.serving.service import InferenceService
from lightmill.serving.servicer import InferenceServicer
from lightmill.serving.tensors import DTYPES
from tests.unit.serving.protocols.world import AUTHORIZED, Joined, ask, service, signature, tabular_signature

Array = npt.NDArray[Any]
Protocol = Callable[[InferenceService, Array, Datatype], Array]
JSONABLE = [name for name in DTYPES if name not in ("FP16", "BF16")]


def oip_flat(app: InferenceService, sent: Array, datatype: Datatype) -> Array:
    return read_json(ask(app, document(sent, datatype, sent.reshape(-1).tolist())), datatype)


def oip_nested(app: InferenceService, sent: Array, datatype: Datatype) -> Array:
    return read_json(ask(app, document(sent, datatype, sent.tolist()), piece=7), datatype)


def document(sent: Array, datatype: Datatype, data: Any, **more: Any) -> bytes:
    entry = {"name": "x", "datatype": datatype, "shape": list(sent.shape), "data": data}
    return json.dumps({"inputs": [entry], **more}).encode()


def read_json(answer: Any, datatype: Datatype) -> Array:
    assert answer.status == 200, answer.body
    same, largest = json.loads(answer.body)["outputs"]
    assert (same["name"], same["datatype"], largest["name"]) == ("same", datatype, "largest")
    return np.array(same["data"], dtype=DTYPES[datatype]).reshape(same["shape"])


def binary(app: InferenceService, sent: Array, datatype: Datatype) -> Array:
    raw = sent.astype(DTYPES[datatype]).tobytes()
    entry = {"name": "x", "datatype": datatype, "shape": list(sent.shape), "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    answer = ask(app, head + raw, headers=[(b"inference-header-content-length", str(len(head)).encode())], piece=1000)
    assert answer.status == 200, answer.body
    length = int(answer.headers[b"inference-header-content-length"])
    same, largest = json.loads(answer.body[:length])["outputs"]
    size, rest = same["parameters"]["binary_data_size"], answer.body[length:]
    assert len(rest) == size + largest["parameters"]["binary_data_size"] == size + 8 * len(sent)
    return np.frombuffer(rest[:size], dtype=DTYPES[datatype]).reshape(same["shape"])


def npy(app: InferenceService, sent: Array, datatype: Datatype) -> Array:
    buffer = io.BytesIO()
    np.save(buffer, sent)
    headers = [(b"content-type", b"application/x-npy"), (b"accept", b"application/x-npy")]
    answer = ask(app, buffer.getvalue(), headers=headers, query=b"output=same")
    assert answer.status == 200, answer.body
    return np.load(io.BytesIO(answer.body), allow_pickle=False)


def npz(app: InferenceService, sent: Array, datatype: Datatype) -> Array:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.asfortranarray(sent))
    answer = ask(app, buffer.getvalue(), headers=[(b"content-type", b"application/x-npz")])
    assert answer.status == 200, answer.body
    with np.load(io.BytesIO(answer.body), allow_pickle=False) as found:
        assert set(found) == {"same", "largest"}
        return found["same"]


def arrow(app: InferenceService, sent: Array, datatype: Datatype) -> Array:
    values: Any = pa.array(sent.reshape(-1))
    for size in reversed(sent.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    sink = pa.BufferOutputStream()
    table = pa.table({"x": values})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    answer = ask(app, sink.getvalue().to_pybytes(), headers=[(b"content-type", b"application/vnd.apache.arrow.stream")])
    assert answer.status == 200, answer.body
    with pa.ipc.open_stream(answer.body) as reader:
        found = reader.read_all()
    assert found.schema.names == ["same", "largest"]
    column = found.column("same").combine_chunks()
    while hasattr(column, "storage") or pa.types.is_fixed_size_list(column.type):
        column = column.storage if hasattr(column, "storage") else column.flatten()
    return column.to_numpy(zero_copy_only=False).astype(DTYPES[datatype]).reshape(sent.shape)


def v1_rows(app: InferenceService, sent: Array, datatype: Datatype) -> Array:
    return _v1(app, {"instances": sent.tolist()}, lambda found: [row["same"] for row in found["predictions"]], datatype)


def v1_columns(app: InferenceService, sent: Array, datatype: Datatype) -> Array:
    return _v1(app, {"inputs": {"x": sent.tolist()}}, lambda found: found["outputs"]["same"], datatype)


def _v1(app: InferenceService, body: Any, read: Callable[[Any], Any], datatype: Datatype) -> Array:
    gateway = Gateway(Joined(app), app.gate)
    answer = ask(gateway, json.dumps(body).encode(), path="/v1/models/echo:predict")
    assert answer.status == 200, answer.body
    return np.array(read(json.loads(answer.body)), dtype=DTYPES[datatype])


class Context:
    """What a gRPC server hands to a method."""

    def __init__(self, metadata: Any = AUTHORIZED) -> None:
        self.metadata = [(key.decode(), value.decode()) for key, value in metadata]
        self.code: Any = None
        self.details = ""

    def invocation_metadata(self) -> Any:
        return self.metadata

    def set_code(self, code: Any) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


def grpc_raw(app: InferenceService, sent: Array, datatype: Datatype) -> Array:
    message = pb.ModelInferRequest(model_name="echo", raw_input_contents=[sent.astype(DTYPES[datatype]).tobytes()])
    message.inputs.add(name="x", datatype=datatype, shape=sent.shape)
    return _grpc(app, message, datatype)


def grpc_typed(app: InferenceService, sent: Array, datatype: Datatype) -> Array:
    message = pb.ModelInferRequest(model_name="echo", id="g")
    field = {"b": "bool", "f": f"fp{sent.itemsize * 8}"}.get(sent.dtype.kind) or (
        ("u" if sent.dtype.kind == "u" else "") + ("int64" if sent.itemsize == 8 else "int")
    )
    contents = pb.InferTensorContents(**{f"{field}_contents": sent.reshape(-1).tolist()})
    message.inputs.add(name="x", datatype=datatype, shape=sent.shape, contents=contents)
    return _grpc(app, message, datatype)


def _grpc(app: InferenceService, message: pb.ModelInferRequest, datatype: Datatype) -> Array:
    servicer, context = InferenceServicer(Joined(app), app.gate, version="0"), Context()
    # Serve hands bytes over: what is not in the message's bytes would not arrive.
    again = pb.ModelInferRequest.FromString(message.SerializeToString())
    answer = pb.ModelInferResponse.FromString(
        asyncio.run(servicer.ModelInfer(again, grpc_context=context)).SerializeToString()
    )
    assert context.code is None, context.details
    assert (answer.model_name, answer.model_version, answer.id) == ("echo", "4", message.id)
    assert answer.outputs[0].datatype == datatype
    return np.frombuffer(answer.raw_output_contents[0], dtype=DTYPES[datatype]).reshape(answer.outputs[0].shape)


ANY: list[Protocol] = [binary, npy, npz, arrow, grpc_raw]
WITH_JSON: list[Protocol] = [*ANY, oip_flat, oip_nested, v1_rows, v1_columns, grpc_typed]
NUMBERS = [name for name in JSONABLE if name != "BYTES"]


def tensors(datatype: str) -> st.SearchStrategy[Array]:
    shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
    finite = {"allow_nan": False, "allow_infinity": False} if DTYPES[datatype].kind == "f" else {}
    return arrays.arrays(DTYPES[datatype], shapes, elements=arrays.from_dtype(DTYPES[datatype], **finite))


@pytest.mark.parametrize("datatype", NUMBERS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_protocol_gives_the_same_answer(datatype: Datatype, data: st.DataObject) -> None:
    sent = data.draw(tensors(datatype))
    app = service(signature(datatype, (-1, *sent.shape[1:])))
    for protocol in WITH_JSON:
        found = protocol(app, sent, datatype)
        assert found.dtype == sent.dtype and found.shape == sent.shape, protocol
        # JSON and -0.0: a protocol may write it as 0.0 only if it said so; none does.
        assert found.tobytes() == sent.tobytes(), protocol


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_half_floats_come_through_every_protocol_of_bytes(data: st.DataObject) -> None:
    sent = data.draw(tensors("FP16"))
    app = service(signature("FP16", (-1, *sent.shape[1:])))
    for protocol in ANY:
        assert protocol(app, sent, "FP16").tobytes() == sent.tobytes(), protocol


@settings(max_examples=20, deadline=None)
@given(sent=arrays.arrays(np.uint16, (2, 3)))
def test_bfloat16_keeps_its_sixteen_bits(sent: Array) -> None:
    app = service(signature("BF16", (-1, 3)))
    for protocol in (binary, grpc_raw, npy, npz, arrow):
        assert protocol(app, sent, "BF16").tobytes() == sent.tobytes(), protocol


@pytest.mark.parametrize(
    ("datatype", "wanted"),
    [("UINT8", "FP32"), ("INT16", "INT64"), ("UINT32", "INT64"), ("INT32", "FP64"), ("FP16", "FP32"), ("FP32", "FP64")],
)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_datatype_that_loses_nothing_is_widened(datatype: Datatype, wanted: Datatype, data: st.DataObject) -> None:
    sent = data.draw(
        arrays.arrays(
            DTYPES[datatype],
            (2, 3),
            elements=arrays.from_dtype(
                DTYPES[datatype],
                **({"allow_nan": False, "allow_infinity": False} if DTYPES[datatype].kind == "f" else {}),
            ),
        )
    )
    app = service(signature(wanted, (-1, 3)))
    raw = sent.tobytes()
    entry = {"name": "x", "datatype": datatype, "shape": [2, 3], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [entry]}).encode()
    answer = ask(app, head + raw, headers=[(b"inference-header-content-length", str(len(head)).encode())])
    assert read_json(answer, wanted).tolist() == sent.tolist()


@settings(deadline=None)
@given(st.integers(0, (1 << 16) - 1))
def test_bfloat16_widens_to_the_float_whose_upper_half_it_is(bits: int) -> None:
    value = struct.unpack("<f", struct.pack("<I", bits << 16))[0]
    raw = struct.pack("<H", bits)
    entry = {"name": "x", "datatype": "BF16", "shape": [1, 1], "parameters": {"binary_data_size": 2}}
    head = json.dumps({"inputs": [entry]}).encode()
    app = service(signature("FP32", (-1, 1)))
    answer = ask(app, head + raw, headers=[(b"inference-header-content-length", str(len(head)).encode())])
    if np.isfinite(value):
        assert read_json(answer, "FP32").tolist() == [[np.float32(value)]]
    else:
        assert answer.status == 400 and b"infinity or NaN" in answer.body


# -- models of named columns ------------------------------------------------------------------------

COLUMNS = TabularPreparation(
    columns=(
        InputColumn(name="age", dtype="float64"),
        InputColumn(name="count", dtype="int32"),
        InputColumn(name="box", dtype="tensor<float32>", shape=(2,)),
    ),
    fitted=FittedPreparation(
        steps=(
            FittedImpute(columns=("age",), values=(7.0,)),
            Features(columns=("age", "count", "box"), name="features"),
        )
    ),
    width=4,
)
TABULAR = tabular_signature(input_specs(COLUMNS), 4)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "age": st.none() | st.floats(-1e6, 1e6, width=32),
            "count": st.integers(-(1 << 20), 1 << 20),
            "box": st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2),
        }
    ),
    min_size=1,
    max_size=4,
)


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_rows_of_named_columns_give_the_same_answer_in_every_form(rows: list[dict[str, Any]]) -> None:
    app = service(TABULAR, preparation=COLUMNS)
    expected = [[row["age"] if row["age"] is not None else 7.0, row["count"], *row["box"]] for row in rows]
    found: list[Any] = []
    named = columns(rows)
    kinds = {"age": "FP64", "count": "INT32", "box": "FP32"}
    entries = [
        {"name": name, "datatype": kinds[name], "shape": [len(rows), 2] if name == "box" else [len(rows)], "data": data}
        for name, data in named.items()
    ]
    found.append(read_json(ask(app, json.dumps({"inputs": entries}).encode()), "FP32").tolist())
    plain = ask(app, json.dumps(rows).encode(), headers=[(b"content-type", b"application/json")])
    assert plain.status == 200, plain.body
    found.append([row["same"] for row in json.loads(plain.body)])
    gateway = Gateway(Joined(app), app.gate)
    for body, read in (
        ({"instances": rows}, lambda answer: [row["same"] for row in answer["predictions"]]),
        ({"inputs": named}, lambda answer: answer["outputs"]["same"]),
    ):
        answer = ask(gateway, json.dumps(body).encode(), path="/v1/models/echo:predict")
        assert answer.status == 200, answer.body
        found.append(read(json.loads(answer.body)))
    table = pa.table(
        {"age": named["age"], "count": pa.array(named["count"], pa.int32()), "box": named["box"]},
        schema=pa.schema([("age", pa.float64()), ("count", pa.int32()), ("box", pa.list_(pa.float32()))]),
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    headers = [(b"content-type", b"application/vnd.apache.arrow.stream"), (b"accept", b"application/json")]
    found.append(read_json(ask(app, sink.getvalue().to_pybytes(), headers=headers), "FP32").tolist())
    if None not in named["age"]:
        buffer = io.BytesIO()
        np.savez(
            buffer,
            age=np.array(named["age"]),
            count=np.array(named["count"], np.int32),
            box=np.array(named["box"], np.float32),
        )
        headers = [(b"content-type", b"application/x-npz"), (b"accept", b"application/json")]
        found.append(read_json(ask(app, buffer.getvalue(), headers=headers), "FP32").tolist())
    assert all(each == expected for each in found), (expected, found)


TEXTS = TabularPreparation(
    columns=(InputColumn(name="raw", dtype="binary"), InputColumn(name="n", dtype="float32")),
    fitted=FittedPreparation(steps=(Features(columns=("n",), name="features"),)),
    width=1,
)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=8), min_size=1, max_size=3))
def test_bytes_are_read_from_every_form(values: list[bytes]) -> None:
    app = service(tabular_signature(input_specs(TEXTS), 1), preparation=TEXTS)
    rows = len(values)
    texts = [base64.b64encode(value).decode() for value in values]
    n = {"name": "n", "datatype": "FP32", "shape": [rows], "data": [1] * rows}
    raw = b"".join(struct.pack("<I", len(value)) + value for value in values)
    for body, headers in (
        (
            json.dumps({"inputs": [n, {"name": "raw", "datatype": "BYTES", "shape": [rows], "data": texts}]}).encode(),
            [],
        ),
        (json.dumps([{"n": 1, "raw": {"b64": text}} for text in texts]).encode(), [(b"accept", b"application/json")]),
    ):
        assert ask(app, body, headers=headers).status == 200
    entry = {"name": "raw", "datatype": "BYTES", "shape": [rows], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [n, entry]}).encode()
    answer = ask(app, head + raw, headers=[(b"inference-header-content-length", str(len(head)).encode())])
    assert answer.status == 200, answer.body
