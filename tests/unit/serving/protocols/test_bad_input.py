"""Bodies that do not fit are refused with a 4xx that names the field, in every form; nothing else is ever raised."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lightmill.models.inputs import input_specs
from lightmill.records.fitted import FittedPreparation, InputColumn, TabularPreparation
from lightmill.records.preparation import Features
from lightmill.records.signature import Signature, TensorSpec
from lightmill.serving.asgi import MAX_BODY_BYTES
from lightmill.serving.gateway import Gateway
from tests.unit.serving.protocols.world import Answer, Joined, ask, service, signature, tabular_signature

APP = service()
NPY, NPZ = b"application/x-npy", b"application/x-npz"
ARROW = b"application/vnd.apache.arrow.stream"


def refused(answer: Answer, status: int, *words: str) -> None:
    assert answer.status == status, answer.body
    error = json.loads(answer.body)["error"]
    assert [word for word in words if word not in error] == [], error


def binary(head: Any, rest: bytes = b"", length: Any = None) -> Answer:
    text = json.dumps(head).encode()
    value = str(len(text)) if length is None else str(length)
    return ask(APP, text + rest, headers=[(b"inference-header-content-length", value.encode())])


def entry(size: Any = 12, **changes: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": size}} | changes
    return {"inputs": [tensor]}


FLOATS = struct.pack("<3f", 1, 2, 3)


def test_binary_tensors_of_another_size_than_declared_are_refused() -> None:
    assert binary(entry(), FLOATS).status == 200
    refused(binary(entry(), FLOATS[:-1]), 400, "inputs['x']", "binary_data_size is 12", "11 bytes are left")
    refused(binary(entry(), FLOATS + b"!"), 400, "1 bytes more", "(12)")
    refused(binary(entry(8), FLOATS[:8]), 400, "inputs['x']", "8 bytes", "[1, 3] needs 12")
    refused(binary(entry(-1), FLOATS), 400, "binary_data_size", "-1")
    refused(binary(entry(1.5), FLOATS), 400, "binary_data_size", "1.5")
    refused(binary(entry(1 << 60), FLOATS), 400, "binary_data_size", "12 bytes are left")
    refused(binary(entry(shape=[1 << 40, 3]), FLOATS), 400, "inputs['x']", "needs")
    refused(binary(entry(data=[1, 2, 3]), FLOATS), 400, "both data and parameters.binary_data_size")
    refused(binary(entry(), FLOATS, length=10_000), 400, "Inference-Header-Content-Length", "10000")
    refused(binary(entry(), FLOATS, length="x"), 400, "Inference-Header-Content-Length", "'x'")
    refused(binary(entry(), FLOATS, length=3), 400, "JSON")
    refused(ask(APP, json.dumps(entry()).encode()), 400, "Inference-Header-Content-Length")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_in_bytes_too(value: float) -> None:
    raw = struct.pack("<3f", 1, value, 3)
    refused(binary(entry(), raw), 400, "inputs['x'].data", "infinity or NaN")
    buffer = io.BytesIO()
    np.save(buffer, np.array([[1, value, 3]], dtype=np.float32))
    refused(ask(APP, buffer.getvalue(), headers=[(b"content-type", NPY)]), 400, "inputs['x']", "NaN")


def test_datatypes_that_would_lose_values_are_refused() -> None:
    for datatype in ("FP64", "INT64", "INT32", "UINT32", "BOOL", "BYTES", "FP8", None, 3):
        body = json.dumps(entry(datatype=datatype) | {}).encode()
        refused(ask(APP, body), 400, "inputs['x'].datatype", "'FP32'")


def test_half_floats_have_no_form_in_json() -> None:
    for datatype in ("FP16", "BF16"):
        tensor = {"name": "x", "datatype": datatype, "shape": [1, 3], "data": [1, 2, 3]}
        refused(ask(APP, json.dumps({"inputs": [tensor]}).encode()), 400, "inputs['x']", datatype, "binary")
        app = service(signature(datatype))
        text = json.dumps(entry(6, datatype=datatype)).encode()
        headers = [(b"inference-header-content-length", str(len(text)).encode())]
        refused(ask(app, text + bytes(6), headers=headers), 400, "'same'", datatype, "binary_data")


def test_texts_in_bytes_that_lie_about_their_length_are_refused() -> None:
    of = Signature(
        inputs=(TensorSpec(name="x", datatype="BYTES", shape=(-1,)),),
        outputs=(TensorSpec(name="same", datatype="BYTES", shape=(-1,)),),
    )
    app = service(of)

    def sent(raw: bytes, shape: list[int]) -> Answer:
        text = json.dumps(entry(len(raw), datatype="BYTES", shape=shape)).encode()
        return ask(app, text + raw, headers=[(b"inference-header-content-length", str(len(text)).encode())])

    one = struct.pack("<I", 2) + b"ab"
    refused(sent(one[:-1], [1]), 400, "inputs['x']", "element 0 has 2 bytes")
    refused(sent(one + b"!", [1]), 400, "1 bytes after its 1 elements")
    refused(sent(one, [1 << 50]), 400, "inputs['x']", "lengths alone")
    refused(sent(struct.pack("<I", 0xFFFFFFFF) + b"ab", [1]), 400, "4294967295")
    refused(sent(one + b"a", [2]), 400, "inputs['x']", "lengths alone")
    refused(sent(one + b"abc", [2]), 400, "ends in the length of element 1 of 2")


def test_parameters_are_read_and_refused_by_name() -> None:
    good = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}

    def sent(**fields: Any) -> Answer:
        return ask(APP, json.dumps({"inputs": [good], **fields}).encode())

    assert (
        sent(parameters={"priority": 1, "timeout": 10_000_000, "mine": "x", "flag": True, "ratio": 0.5}).status == 200
    )
    refused(sent(parameters=[]), 400, "Field parameters", "object", "a list")
    refused(sent(parameters={"a": {}}), 400, "parameters.a", "an object")
    refused(sent(parameters={"a": None}), 400, "parameters.a", "nothing")
    refused(sent(parameters={"priority": -1}), 400, "parameters.priority", "-1")
    refused(sent(parameters={"timeout": 0.5}), 400, "parameters.timeout", "0.5")
    refused(sent(outputs=[{"name": "same", "parameters": {"binary_data": 1}}]), 400, "binary_data", "true or false")
    refused(sent(outputs=[{"name": "same", "parameters": {"classification": -1}}]), 400, "classification", "-1")
    refused(sent(outputs=[{"name": "largest", "parameters": {"classification": 1}}]), 400, "outputs['largest']")
    refused(sent(inputs=[good | {"parameters": 3}]), 400, "inputs['x'].parameters", "a number")


# -- encodings ---------------------------------------------------------------------------------------


def test_bombs_are_refused_without_their_memory() -> None:
    bomb = gzip.compress(bytes(8 * MAX_BODY_BYTES), 9)
    raw = zlib.compress(bytes(8 * MAX_BODY_BYTES), 9)
    tracemalloc.start()
    refused(ask(APP, bomb, headers=[(b"content-encoding", b"gzip")], piece=1 << 16), 413, str(MAX_BODY_BYTES))
    refused(ask(APP, raw, headers=[(b"content-encoding", b"deflate")], piece=1 << 16), 413, str(MAX_BODY_BYTES))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * MAX_BODY_BYTES


def test_encodings_are_refused_by_name() -> None:
    good = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}).encode()
    for encoding, packed in ((b"gzip", gzip.compress(good)), (b"deflate", zlib.compress(good)), (b"identity", good)):
        assert ask(APP, packed, headers=[(b"content-encoding", encoding)]).status == 200
    packed = gzip.compress(good)
    refused(ask(APP, packed, headers=[(b"content-encoding", b"br")]), 415, "gzip or deflate", "'br'")
    refused(ask(APP, packed[:-4], headers=[(b"content-encoding", b"gzip")]), 400, "gzip", "cut off")
    refused(ask(APP, packed + b"more", headers=[(b"content-encoding", b"gzip")]), 400, "4 bytes after")
    refused(ask(APP, good, headers=[(b"content-encoding", b"gzip")]), 400, "not valid gzip")
    refused(ask(APP, good, headers=[(b"content-encoding", b"gzip, gzip")]), 415, "gzip or deflate")


def test_a_content_length_unlike_the_body_is_refused() -> None:
    refused(ask(APP, b"{}", headers=[(b"content-length", b"3")]), 400, "Content-Length says 3", "2 bytes")
    refused(ask(APP, b"{}", headers=[(b"content-length", b"-3")]), 400, "Content-Length")


# -- media types -------------------------------------------------------------------------------------


def test_types_that_are_not_read_or_written_are_refused_with_those_that_are() -> None:
    refused(ask(APP, b"<x/>", headers=[(b"content-type", b"application/xml")]), 415, "application/xml", "x-npy")
    refused(ask(APP, b"{}", headers=[(b"accept", b"text/html")]), 406, "text/html", "application/json", "x-npz")
    refused(ask(APP, b"{}", headers=[(b"accept", b"application/json;q=0")]), 406, "q=0")


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def test_numpy_files_that_lie_or_hold_objects_are_refused() -> None:
    def sent(body: bytes, media: bytes = NPY) -> Answer:
        return ask(APP, body, headers=[(b"content-type", media), (b"accept", b"application/json")])

    good = npy(np.ones((1, 3), dtype=np.float32))
    assert sent(good).status == 200
    refused(sent(good[:-1]), 400, "inputs['x']", "11 bytes", "needs 12")
    refused(sent(good + b"!"), 400, "13 bytes", "needs 12")
    refused(sent(good.replace(b"(1, 3)", b"(9, 3)")), 400, "needs 108")
    huge = good.replace(b"(1, 3), }" + b" " * 20, b"(999999999999999999, 3), }" + b" " * 3)
    refused(sent(huge), 400, "inputs['x']", "needs")
    refused(sent(npy(np.array([{}], dtype=object), allow_pickle=True)), 400, "dtype", "never objects")
    refused(sent(npy(np.zeros(3, dtype="f4,i4"))), 400, "dtype", "never objects")
    refused(sent(npy(np.zeros(3, dtype="M8[s]"))), 400, "dtype")
    refused(sent(npy(np.ones((1, 4), dtype=np.float32))), 400, "inputs['x'].shape", "[batch, 3]", "[1, 4]")
    refused(sent(npy(np.ones((1, 3)))), 400, "inputs['x'].datatype", "'FP32'", "'FP64'")
    refused(sent(b"\x93NUMPY\x01\x00"), 400, "no .npy file")
    refused(sent(b""), 400, "no .npy file")
    many = ask(APP, good, headers=[(b"content-type", NPY), (b"accept", NPY)])
    refused(many, 406, "same, largest", "?output=")


def test_zip_files_that_lie_or_expand_are_refused() -> None:
    def sent(*members: tuple[str, bytes], compress: bool = False) -> Answer:
        buffer = io.BytesIO()
        kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            for name, body in members:
                archive.writestr(name, body)
        return ask(APP, buffer.getvalue(), headers=[(b"content-type", NPZ)], piece=1 << 16)

    good = npy(np.ones((1, 3), dtype=np.float32))
    assert sent(("x.npy", good)).status == 200
    refused(sent(("y.npy", good)), 400, "'y'", "x")
    with pytest.warns(UserWarning, match="Duplicate name"):
        refused(sent(("x.npy", good), ("x.npy", good)), 400, "'inputs'", "['x', 'x']")
    refused(sent(), 400, "'inputs'")
    refused(sent(("x.npy", bytes(MAX_BODY_BYTES + 1)), compress=True), 413, str(MAX_BODY_BYTES))
    refused(ask(APP, b"PK nothing", headers=[(b"content-type", NPZ)]), 400, "no valid zip")


def arrow(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_arrow_streams_that_do_not_fit_are_refused() -> None:
    def sent(column: Any, name: str = "x", **options: Any) -> Answer:
        return ask(APP, arrow(pa.table({name: column}), **options), headers=[(b"content-type", ARROW)])

    rows = pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float32()))
    assert sent(rows).status == 200
    assert sent(rows.cast(pa.list_(pa.float32(), 3))).status == 200
    refused(sent(rows, "y"), 400, "'inputs'", "'y'")
    refused(sent(pa.array([[1.0, 2.0, 3.0], [1.0]], pa.list_(pa.float32()))), 400, "inputs['x'].data", "ragged")
    refused(sent(pa.array([[1.0, 2.0]], pa.list_(pa.float32()))), 400, "inputs['x'].shape", "[1, 2]")
    refused(sent(pa.array([[1.0, None, 3.0]], pa.list_(pa.float32()))), 400, "inputs['x'].data")
    refused(sent(pa.array([[1.0, 2.0, 3.0]])), 400, "inputs['x'].datatype", "'FP64'")
    refused(sent(pa.array([["a", "b", "c"]])), 400, "inputs['x'].datatype", "'BYTES'")
    refused(sent(pa.array([{"a": 1}])), 400, "inputs['x'].datatype", "struct")
    refused(sent(pa.array([], pa.list_(pa.float32()))), 400, "no row")
    refused(sent(pa.nulls(1 << 21)), 413, "rows")
    for codec in ("zstd", "lz4"):
        many = pa.array([[1.0, 2.0, 3.0]] * 1000, pa.list_(pa.float32()))
        refused(sent(many, compression=codec), 415, "compressed buffers")
    dictionary = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["a" * 10_000]))
    refused(sent(dictionary), 413, "inputs['x']", "dictionary")
    compressed = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array(["a" * 10_000]))
    refused(sent(compressed, compression="zstd"), 415, "compressed buffers")
    refused(ask(APP, b"ARROW1", headers=[(b"content-type", ARROW)]), 400, "Arrow IPC stream")
    refused(ask(APP, b"", headers=[(b"content-type", ARROW)]), 400, "Arrow IPC stream")


IMAGE = service(signature("FP32", (-1, 4, 6, 3)))
BOUNDARY = b"----xyz"
MULTIPART = [(b"content-type", b"multipart/form-data; boundary=----xyz")]


def form(*parts: tuple[str, bytes], file: bool = True) -> bytes:
    lines = []
    for name, content in parts:
        tail = '; filename="a.png"' if file else ""
        lines.append(b"--" + BOUNDARY + f'\r\nContent-Disposition: form-data; name="{name}"{tail}\r\n\r\n'.encode())
        lines.append(content + b"\r\n")
    return b"".join(lines) + b"--" + BOUNDARY + b"--\r\n"


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(-1, 4, 6, 3), (-1, 3, 4, 6)])
@pytest.mark.parametrize("datatype", ["FP32", "UINT8"])
def test_images_become_pixels(shape: tuple[int, ...], datatype: Any) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    answer = ask(service(signature(datatype, shape)), form(*(("x", png(each)) for each in pixels)), headers=MULTIPART)
    assert answer.status == 200, answer.body
    same = json.loads(answer.body)["outputs"][0]
    expected = pixels if shape[-1] == 3 else np.moveaxis(pixels, -1, 1)
    found = np.reshape(same["data"], same["shape"])
    np.testing.assert_allclose(found, expected / 255 if datatype == "FP32" else expected, rtol=1e-6)


def test_forms_that_hold_no_images_are_refused() -> None:
    good = png(np.zeros((4, 6, 3), dtype=np.uint8))
    assert ask(IMAGE, form(("x", good)), headers=MULTIPART).status == 200
    assert ask(IMAGE, form(("x", png(np.zeros((40, 9), dtype=np.uint8)))), headers=MULTIPART).status == 200
    refused(ask(IMAGE, form(("x", b"GIF89a?")), headers=MULTIPART), 400, "inputs['x'], file 0", "no image")
    refused(ask(IMAGE, form(("x", good[:40])), headers=MULTIPART), 400, "inputs['x'], file 0")
    refused(ask(IMAGE, form(), headers=MULTIPART), 400, "no part")
    refused(ask(IMAGE, form(("x", good), ("y", good)), headers=MULTIPART), 400, "'y'")
    refused(ask(IMAGE, form(("x", good))[:-30], headers=MULTIPART), 400, "not closed", "cut off")
    refused(ask(IMAGE, b"nothing", headers=MULTIPART), 400, "boundary '----xyz'")
    refused(ask(IMAGE, form(("x", good)), headers=[(b"content-type", b"multipart/form-data")]), 400, "boundary")
    refused(ask(APP, form(("x", good)), headers=MULTIPART), 400, "'x'", "no image")
    nameless = form(("x", good)).replace(b'name="x"; ', b"")
    refused(ask(IMAGE, nameless, headers=MULTIPART), 400, "Part 0")
    refused(ask(IMAGE, form(*[("x", b"")] * 1025), headers=MULTIPART), 400, "1024 parts")


def test_an_image_of_too_many_pixels_is_refused_from_its_header() -> None:
    buffer = io.BytesIO()
    Image.new("1", (60_000, 60_000)).save(buffer, "PNG")
    refused(ask(IMAGE, form(("x", buffer.getvalue())), headers=MULTIPART), 413, "pixels")


def test_a_form_fills_named_columns() -> None:
    preparation = TabularPreparation(
        columns=(InputColumn(name="photo", dtype="binary"), InputColumn(name="n", dtype="float32")),
        fitted=FittedPreparation(steps=(Features(columns=("n",), name="features"),)),
        width=1,
    )
    app = service(tabular_signature(input_specs(preparation), 1), preparation=preparation)
    body = form(("photo", b"\x00\xff"))[: -len(BOUNDARY) - 6] + form(("n", b"2.5"), file=False)
    answer = ask(app, body, headers=MULTIPART)
    assert answer.status == 200, answer.body
    assert json.loads(answer.body)["outputs"][0]["data"] == [2.5]
    refused(ask(app, form(("n", b"2.5")), headers=MULTIPART), 400, "inputs['n']", "not a file")
    refused(ask(app, form(("n", b"two"), file=False), headers=MULTIPART), 400, "JSON")


def test_rows_that_do_not_fit_are_refused_by_column() -> None:
    preparation = TabularPreparation(
        columns=(InputColumn(name="n", dtype="float32"), InputColumn(name="day", dtype="date")),
        fitted=FittedPreparation(steps=(Features(columns=("n",), name="features"),)),
        width=1,
    )
    app = service(tabular_signature(input_specs(preparation), 1), preparation=preparation)

    def sent(rows: Any) -> Answer:
        return ask(app, json.dumps(rows).encode(), headers=[(b"content-type", b"application/json")])

    good = {"n": 1, "day": "2026-01-02"}
    assert json.loads(sent([good, good | {"day": None}]).body) == [{"same": [1.0], "largest": 0}] * 2
    refused(sent([]), 400, "The body", "at least one row")
    refused(sent([good | {"x": 1}]), 400, "row 0", "unknown column 'x'", "n, day")
    refused(sent([good, 3]), 400, "objects only", "a number")
    refused(sent([1]), 400, "The body", "columns n, day", "a number")
    refused(sent([{"n": 1}]), 400, "no row has the column 'day'")
    refused(sent([good | {"n": "1"}]), 400, "'n'")
    refused(sent([good | {"n": {}}]), 400, "'n'")
    refused(sent([good | {"day": 5}]), 400, "'day'")
    refused(sent([good | {"day": "soon"}]), 400, "'day'")
    # A model of tensors is asked with an object, and says so.
    refused(ask(APP, b"[1]"), 400, "JSON object", "a list")


DEEP = "[" * 1020 + "]" * 1020


@pytest.mark.parametrize(
    "body",
    [
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": %s}]}',
        '{"inputs": [{"name": "x", "datatype": "FP32", "shape": %s, "data": [1, 2, 3]}]}',
        '{"inputs": [{"name": "x", "datatype": %s, "shape": [1, 3], "data": [1, 2, 3]}]}',
        '{"inputs": [{"name": %s, "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}',
        '{"inputs": %s}',
        '{"id": %s, "inputs": []}',
        '{"instances": %s}',
        '{"instances": [{"x": %s}]}',
        '{"inputs": {"x": %s}}',
        "%s",
    ],
)
def test_deep_nesting_is_a_4xx_wherever_it_is(body: str) -> None:
    sent = (body % DEEP).encode()
    gateway = Gateway(Joined(APP), APP.gate)
    for answer in (ask(APP, sent), ask(gateway, sent, path="/v1/models/echo:predict")):
        assert 400 <= answer.status < 500, answer.body


# -- whatever comes ----------------------------------------------------------------------------------

TYPES = st.sampled_from([b"application/json", NPY, NPZ, ARROW, MULTIPART[0][1], b"application/octet-stream", b""])


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200), TYPES, st.sampled_from([None, b"0", b"5", b"200"]), st.booleans())
def test_any_bytes_are_refused_with_a_4xx(body: bytes, media: bytes, length: bytes | None, image: bool) -> None:
    headers = [(b"content-type", media)]
    if length is not None:
        headers.append((b"inference-header-content-length", length))
    answer = ask(IMAGE if image else APP, body, headers=headers)
    assert 400 <= answer.status < 500 and set(json.loads(answer.body)) == {"error"}


GOOD = {
    NPY: npy(np.ones((1, 3), dtype=np.float32)),
    ARROW: arrow(pa.table({"x": pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float32()))})),
    MULTIPART[0][1]: form(("x", png(np.zeros((4, 6, 3), dtype=np.uint8)))),
}
BUFFER = io.BytesIO()
np.savez_compressed(BUFFER, x=np.ones((1, 3), dtype=np.float32))
GOOD[NPZ] = BUFFER.getvalue()


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_a_damaged_body_is_read_or_refused_and_never_a_500(media: bytes, data: st.DataObject) -> None:
    body = bytearray(GOOD[media])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        body = body[: data.draw(st.integers(0, len(body)))]
    answer = ask(IMAGE if media.startswith(b"multipart") else APP, bytes(body), headers=[(b"content-type", media)])
    assert answer.status == 200 or 400 <= answer.status < 500, answer.body
