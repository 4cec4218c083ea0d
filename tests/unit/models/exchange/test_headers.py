"""The header parser: it takes what safetensors writes, and nothing that safetensors would not read."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightmill.errors import RequestError
from lightmill.models.exchange.headers import DTYPE_BYTES, HEADER_MAX_BYTES, parse_header
from lightmill.models.exchange.streams import read_header, read_tensors
from lightmill.registry.draft import PlainTensor

NUMPY = {"BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "F16": "float16"}
NUMPY |= {"F32": "float32", "F64": "float64"}
names = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=12).filter(
    lambda n: n != "__metadata__"
)
arrays = st.tuples(st.sampled_from(sorted(NUMPY.values())), st.lists(st.integers(0, 4), max_size=3)).map(
    lambda drawn: np.arange(np.prod(drawn[1], dtype=int)).astype(drawn[0]).reshape(drawn[1])
)
states = st.dictionaries(names, arrays, min_size=1, max_size=5)
VALID = safetensors.numpy.save({"a": np.arange(3, dtype=np.float32), "b": np.ones((2, 2), dtype=np.int8)}, {"by": "x"})


def read(data: bytes) -> list[PlainTensor]:
    file = io.BytesIO(data)
    return list(read_tensors(file, read_header(file, len(data), "f"), "f"))


@given(states)
@settings(max_examples=50, deadline=None)
def test_every_file_that_safetensors_writes_is_read_alike(state: dict[str, np.ndarray]) -> None:
    found = read(safetensors.numpy.save(state))
    assert {tensor.name for tensor in found} == state.keys()
    for tensor in found:
        value = state[tensor.name]
        assert (NUMPY[tensor.dtype], tensor.shape) == (str(value.dtype), value.shape)
        assert bytes(tensor.data) == value.tobytes()


@given(st.integers(0, len(VALID) - 1), st.binary(max_size=3), st.integers(0, 3))
@example(at=8, put=b"", cut=1)
@settings(max_examples=150, deadline=None)
def test_a_changed_file_is_refused_or_means_what_safetensors_says(at: int, put: bytes, cut: int) -> None:
    data = VALID[:at] + put + VALID[at + cut :]
    try:
        ours = {tensor.name: (tensor.shape, bytes(tensor.data)) for tensor in read(data)}
    except RequestError:
        return
    theirs = {name: (tuple(value["shape"]), bytes(value["data"])) for name, value in safetensors.deserialize(data)}
    assert ours == theirs


@pytest.mark.slow
def test_thousands_of_changed_headers_are_refused_or_mean_the_same() -> None:
    """Up to three bytes of the head are replaced, removed or inserted, 20,000 times."""
    random = np.random.default_rng(7)
    refused = same = 0
    for _ in range(20_000):
        data = bytearray(VALID)
        for at in random.integers(0, len(VALID) - 20, size=random.integers(1, 4)):
            put = random.integers(0, 256, size=random.integers(0, 3), dtype=np.uint8).tobytes()
            data[at : at + random.integers(0, 3)] = put
        try:
            ours = {tensor.name: (tensor.shape, bytes(tensor.data)) for tensor in read(bytes(data))}
        except RequestError:
            refused += 1
            continue
        theirs = safetensors.deserialize(bytes(data))
        assert ours == {name: (tuple(value["shape"]), bytes(value["data"])) for name, value in theirs}
        same += 1
    print(f"{refused + same} changed headers: {refused} refused, {same} read as safetensors reads them")
    assert refused > 15_000


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(RequestError):
        read(struct.pack("<Q", len(noise)) + noise + b"x")


leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from([*DTYPE_BYTES, "F8", "C64"])
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))
tensors = st.fixed_dictionaries({"dtype": values, "shape": values, "data_offsets": values})


@given(st.dictionaries(st.text(max_size=4) | st.just("__metadata__"), tensors | values, max_size=3))
@settings(max_examples=40, deadline=None)
def test_no_json_at_all_brings_anything_but_a_refusal(header: dict[str, object]) -> None:
    try:
        parsed = parse_header(json.dumps(header).encode(), None, "f")
    except RequestError:
        return
    assert all(slot.nbytes >= 0 for slot in parsed.slots)


def headed(header: object, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(begin: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"\x01\x02", "shorter than 8 bytes"),
        (struct.pack("<Q", 1 << 60), f"limit of {HEADER_MAX_BYTES}"),
        (struct.pack("<Q", HEADER_MAX_BYTES), "which the file does not have"),
        (headed(b"[1]"), "not JSON"),
        (headed(b"{" * 5000), "not strict JSON"),
        (headed(b'{"a":{},"a":{}}'), "appears twice"),
        (headed(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}', b"x"), "NaN"),
        (headed({"a": entry(0, 2), "b": entry(1, 3)}, b"abc"), "'b' begins at 1, not at 2"),
        (headed({"a": entry(1, 2)}, b"ab"), "'a' begins at 1, not at 0"),
        (headed({"a": entry(0, 2)}, b"abc"), "have 2 bytes, its data 3"),
        (headed({"a": entry(0, 4)}, b"abc"), "have 4 bytes, its data 3"),
        (headed({"a": entry(0, 3, "F32", [1])}, b"abc"), "needs 4 bytes"),
        (headed({"a": entry(0, 0, "U8", [0, 1 << 62])}), "malformed shape"),
        (headed({"a": entry(0, 1, "U8", [-1])}, b"a"), "malformed shape"),
        (headed({"a": entry(0, 1, "U8", [1] * 40)}, b"a"), "malformed shape"),
        (headed({"a": entry(0, 1, "F8_E4M3")}, b"a"), "F8_E4M3"),
        (headed({"a": {**entry(0, 1), "more": 1}}, b"a"), "exactly dtype, shape and data_offsets"),
        (headed({"": entry(0, 1)}, b"a"), "empty, long or unprintable"),
        (headed({"a\n": entry(0, 1)}, b"a"), "unprintable"),
        (headed({"a" * 2000: entry(0, 1)}, b"a"), "long"),
        (headed({"__metadata__": {"a": 1}}), "map of text to text"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, named: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(data)
    assert named in caught.value.message
    assert len(caught.value.message) < 500


def test_a_stream_that_goes_on_or_breaks_off_is_refused() -> None:
    header = read_header(io.BytesIO(VALID), len(VALID), "f")
    body = VALID[8 + len(header.raw) :]
    with pytest.raises(RequestError, match="goes on"):
        list(read_tensors(io.BytesIO(body + b"x"), header, "f"))
    with pytest.raises(RequestError, match="ends inside tensor"):
        list(read_tensors(io.BytesIO(body[:-1]), header, "f"))
