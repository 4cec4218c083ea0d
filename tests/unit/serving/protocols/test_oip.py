"""The Open Inference Protocol's JSON: what fits comes out equal, what does not says which field and why."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lightmill.errors import RequestError
from lightmill.models.answers import signature_of
from lightmill.models.inputs import TabularInputs
from lightmill.records.fitted import FittedImpute, FittedPreparation, InputColumn, TabularPreparation
from lightmill.records.preparation import Features
from lightmill.records.signature import Datatype, Signature, TensorSpec
from lightmill.serving.fitting import Fitter
from lightmill.serving.protocols import oip
from lightmill.serving.protocols.forms import Form
from lightmill.serving.tensors import DTYPES, InferRequest, ModelDescription, WantedOutput


@dataclass(frozen=True, kw_only=True)
class Read:
    """A request as the model gets it."""

    features: Any
    request: InferRequest

    @property
    def id(self) -> str | None:
        return self.request.id

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(output.name for output in self.request.outputs)


def model(of: Signature, *, by_column: bool = False) -> ModelDescription:
    return ModelDescription(name="digits", version="7", signature=of, by_column=by_column)


def parse(sent: bytes, of: Signature, tabular: TabularInputs | None = None, form: Form = Form()) -> Read:
    described = model(of, by_column=tabular is not None)
    request = oip.parse(sent, described, form)
    return Read(features=Fitter(described, tabular).features(request), request=request)


def write(request: InferRequest, arrays: dict[str, Any]) -> Any:
    return json.loads(oip.write(Fitter(model(signature())).response(request, arrays), request).body)


def asked(*outputs: str, id: str | None = None) -> InferRequest:
    return InferRequest(inputs=(), outputs=tuple(WantedOutput(name=name) for name in outputs), id=id)


def signature(shape: tuple[int, ...] = (-1, 3), datatype: Datatype = "FP32") -> Signature:
    return Signature(
        inputs=(TensorSpec(name="x", datatype=datatype, shape=shape),),
        outputs=(
            TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 2)),
            TensorSpec(name="label", datatype="INT64", shape=(-1,)),
        ),
    )


def body(**changes: Any) -> bytes:
    entry = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]} | changes
    return json.dumps({"inputs": [entry]}).encode()


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


@settings(deadline=None)
@given(st.data(), SHAPES, st.booleans())
def test_any_tensor_comes_through_flat_and_nested(data: st.DataObject, shape: tuple[int, ...], nested: bool) -> None:
    values = data.draw(
        arrays.arrays(np.float32, shape, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
    )
    listed = values.tolist() if nested else values.reshape(-1).tolist()
    sent = body(shape=list(shape), data=listed)
    found = parse(sent, signature((-1, *shape[1:])))
    assert found.features.dtype == np.float32
    assert found.features.shape == shape
    np.testing.assert_array_equal(found.features, values)


@pytest.mark.parametrize("datatype", ["UINT8", "INT8", "INT16", "INT32", "INT64"])
def test_the_extremes_of_every_integer_type_come_through(datatype: Datatype) -> None:
    limits = np.iinfo(DTYPES[datatype])
    sent = body(datatype=datatype, shape=[1, 3], data=[int(limits.min), 0, int(limits.max)])
    found = parse(sent, signature(datatype=datatype)).features
    assert found.dtype == DTYPES[datatype]
    assert found.tolist() == [[limits.min, 0, limits.max]]


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT8", 128), ("INT8", -129), ("UINT8", -1), ("UINT8", 256), ("INT32", 1 << 31), ("INT64", 1 << 63)],
)
def test_an_integer_that_does_not_fit_is_refused_and_never_wrapped(datatype: Datatype, value: int) -> None:
    with pytest.raises(RequestError, match="data"):
        parse(body(datatype=datatype, shape=[1, 3], data=[0, 0, value]), signature(datatype=datatype))


def test_booleans_come_through_as_booleans() -> None:
    sent = body(datatype="BOOL", shape=[1, 3], data=[True, False, True])
    assert parse(sent, signature(datatype="BOOL")).features.tolist() == [[True, False, True]]


def test_integers_and_doubles_become_the_declared_type() -> None:
    found = parse(body(data=[1, 2.5, 3, 4, 5, 6]), signature())
    assert found.features.tolist() == [[1, 2.5, 3], [4, 5, 6]]
    double = parse(body(datatype="FP64", data=[0.1] * 6), signature(datatype="FP64"))
    assert (double.features.dtype, double.features[0, 0]) == (np.float64, 0.1)


def test_the_id_and_the_wanted_outputs_are_kept() -> None:
    request = json.loads(body()) | {"id": "r-1", "outputs": [{"name": "label"}], "parameters": {"x": 1}}
    found = parse(json.dumps(request).encode(), signature())
    assert (found.id, found.outputs) == ("r-1", ("label",))
    found = parse(body(), signature())
    assert (found.id, found.outputs) == (None, ())


def whole(**fields: Any) -> bytes:
    return json.dumps(json.loads(body()) | fields).encode()


BAD: dict[str, tuple[bytes, tuple[str, ...]]] = {
    # what was sent, and what the message must name: field, expected, given
    "no body": (b"", ("JSON",)),
    "no JSON": (b"{", ("JSON",)),
    "not UTF-8": (b'{"id": "\xff"}', ("JSON",)),
    "NaN": (b'{"inputs": NaN}', ("JSON",)),
    "a list": (b"[1]", ("object", "a list")),
    "a number": (b"3", ("object", "a number")),
    "a number as id": (whole(id=7), ("'id'", "string", "a number")),
    "no inputs": (b"{}", ("'inputs'", "'x'", "[batch, 3]", "nothing")),
    "inputs an object": (whole(inputs={}), ("'inputs'", "an object")),
    "inputs empty": (whole(inputs=[]), ("'inputs'", "'x'")),
    "an input that is a string": (whole(inputs=["x"]), ("inputs[0]", "object", "a string")),
    "another name": (body(name="y"), ("'inputs'", "'x'", "'y'")),
    "no name": (body(name=None), ("'inputs'", "'x'", "None")),
    "two inputs": (whole(inputs=json.loads(body())["inputs"] * 2), ("'inputs'", "one input", "['x', 'x']")),
    "another datatype": (body(datatype="FP64"), ("datatype", "'FP32'", "'FP64'")),
    "no datatype": (body(datatype=None), ("datatype", "'FP32'", "None")),
    "no shape": (body(shape=None), ("shape", "[batch, 3]", "None")),
    "shape a number": (body(shape=6), ("shape", "[batch, 3]", "6")),
    "shape with a fraction": (body(shape=[2.0, 3]), ("shape", "[batch, 3]", "2.0")),
    "shape with a boolean": (body(shape=[True, 3]), ("shape", "[batch, 3]", "True")),
    "shape with a string": (body(shape=["2", 3]), ("shape", "[batch, 3]", "'2'")),
    "negative shape": (body(shape=[-1, 3]), ("shape", "[batch, 3]", "-1")),
    "shape without batch": (body(shape=[3], data=[1, 2, 3]), ("shape", "[batch, 3]", "[3]")),
    "shape of another width": (body(shape=[2, 4], data=list(range(8))), ("shape", "[batch, 3]", "[2, 4]")),
    "shape of another rank": (body(shape=[1, 2, 3]), ("shape", "[batch, 3]", "[1, 2, 3]")),
    "no rows": (body(shape=[0, 3], data=[]), ("shape", "at least one row", "[0, 3]")),
    "a shape of enormous size": (body(shape=[1 << 62, 3]), ("data", "6 values", str(3 << 62))),
    "no data": (body(data=None), ("data", "list of FP32", "nothing")),
    "data a string": (body(data="AAAA"), ("data", "list of FP32", "a string")),
    "too little data": (body(data=[1, 2, 3]), ("data", "3 values", "[2, 3]", "6")),
    "too much data": (body(data=list(range(7))), ("data", "7 values", "6")),
    "no data in the list": (body(data=[]), ("data", "0 values", "6")),
    "ragged": (body(data=[[1, 2, 3], [4, 5]]), ("data", "ragged")),
    "nested the other way": (body(data=[[1, 2], [3, 4], [5, 6]]), ("data", "[3, 2]", "[2, 3]")),
    "a string among the data": (body(data=[1, 2, 3, 4, 5, "six"]), ("data", "FP32", "'six'")),
    "nothing among the data": (body(data=[1, 2, 3, 4, 5, None]), ("data", "FP32", "None")),
    "booleans": (body(data=[True] * 6), ("data", "FP32", "True")),
    "a boolean among numbers": (body(data=[1, 2, 3, 4, 5, True]), ("data", "FP32", "True")),
    "an object among the data": (body(data=[1, 2, 3, 4, 5, {}]), ("data", "FP32", "{}")),
    "too large for the type": (body(data=[1e39] * 6), ("data", "FP32", "cannot hold")),
    "another output": (whole(outputs=[{"name": "scores"}]), ("'outputs'", "'scores'", "'label'")),
    "an output without a name": (whole(outputs=[{}]), ("'outputs'", "None", "'label'")),
    "outputs that are names": (whole(outputs=["label"]), ("'outputs'", "'label'")),
    "outputs an object": (whole(outputs={"name": "label"}), ("'outputs'", "'label'")),
    "an output named by a list": (whole(outputs=[{"name": ["label"]}]), ("'outputs'", "['label']")),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_with_field_expected_and_given(case: str) -> None:
    sent, named = BAD[case]
    with pytest.raises(RequestError) as caught:
        parse(sent, signature())
    assert [part for part in named if part not in caught.value.message] == [], caught.value.message


def test_a_fraction_is_no_integer() -> None:
    with pytest.raises(RequestError, match=r"INT32.*1\.5"):
        parse(body(datatype="INT32", data=[1, 2, 3, 4, 5, 1.5]), signature(datatype="INT32"))


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_any_bytes_are_refused_and_nothing_else_is_raised(sent: bytes) -> None:
    with pytest.raises(RequestError):
        parse(sent, signature())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": JSON | st.just("x"),
            "datatype": JSON | st.just("FP32"),
            "shape": JSON | st.just([1, 3]),
            "data": JSON,
        },
    )
)
def test_any_json_in_place_of_a_tensor_is_read_or_refused(entry: dict[str, Any]) -> None:
    try:
        sent = json.dumps({"inputs": [entry]}).encode()
    except ValueError:
        return
    try:
        found = parse(sent, signature())
    except RequestError as exc:
        assert "inputs" in exc.message or "JSON" in exc.message
    else:
        assert found.features.shape == (1, 3)


def test_deep_nesting_is_refused() -> None:
    sent = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":' + b"[" * 900 + b"]" * 900 + b"}]}"
    with pytest.raises(RequestError):
        parse(sent, signature())


@settings(deadline=None)
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(2)), elements=st.floats(0, 1, width=32)),
    st.none() | st.text(max_size=20),
)
def test_a_response_holds_the_arrays_that_were_computed(probabilities: np.ndarray, id: str | None) -> None:
    label = probabilities.argmax(axis=1)
    answer = write(asked("label", "probabilities", id=id), {"probabilities": probabilities, "label": label})
    assert (answer["model_name"], answer["model_version"], answer.get("id")) == ("digits", "7", id)
    first, second = answer["outputs"]
    assert (first["name"], first["datatype"], first["shape"]) == ("label", "INT64", [len(label)])
    assert first["data"] == label.tolist()
    assert (second["name"], second["datatype"], second["shape"]) == ("probabilities", "FP32", [len(label), 2])
    np.testing.assert_array_equal(np.array(second["data"], dtype=np.float32).reshape(-1, 2), probabilities)


def test_a_response_takes_slices_and_transposed_arrays() -> None:
    values = np.arange(8, dtype=np.float32).reshape(2, 4).T[1:3]
    answer = write(asked("probabilities"), {"probabilities": values})
    assert answer["outputs"][0]["data"] == values.reshape(-1).tolist()
    assert "id" not in answer


def test_a_probability_that_is_no_number_is_null_and_the_json_stays_valid() -> None:
    values = np.array([[math.nan, 1.0]], dtype=np.float32)
    answer = write(asked("probabilities"), {"probabilities": values})
    assert answer["outputs"][0]["data"] == [None, 1.0]


def test_the_metadata_has_the_fields_of_the_protocol() -> None:
    found = json.loads(oip.metadata(model(signature())))
    assert found == {
        "name": "digits",
        "versions": ["7"],
        "platform": "lightmill_torch",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "label", "datatype": "INT64", "shape": [-1]},
        ],
    }
    assert json.loads(oip.error('a "quoted" message')) == {"error": 'a "quoted" message'}


# -- models of named columns ----------------------------------------------------------


COLUMNS = TabularPreparation(
    columns=(InputColumn(name="age", dtype="float64"), InputColumn(name="box", dtype="tensor<float32>", shape=(2,))),
    fitted=FittedPreparation(
        steps=(FittedImpute(columns=("age",), values=(7.0,)), Features(columns=("age", "box"), name="features"))
    ),
    width=3,
)
TABULAR = signature_of(TensorSpec(name="features", datatype="FP32", shape=(3,)), 2, COLUMNS)


def column(name: str, datatype: str, shape: list[int], data: object) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


AGE = column("age", "FP64", [2], [1.5, None])
BOX = column("box", "FP32", [2, 2], [1, 2, 3, 4])


def test_named_columns_become_features_row_by_row() -> None:
    inputs = TabularInputs(COLUMNS)
    for box in (BOX, column("box", "FP32", [2, 2], [[1, 2], [3, 4]])):
        found = parse(json.dumps({"inputs": [box, AGE]}).encode(), TABULAR, inputs)
        assert found.features.tolist() == [[1.5, 1.0, 2.0], [7.0, 3.0, 4.0]]


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ([], "one input for each of age, box"),
        ([AGE], "lacks 'box'"),
        ([AGE, AGE, BOX], "'age'"),
        ([AGE, BOX, column("c", "FP32", [2], [1, 2])], "'c'"),
        ([7, BOX], "inputs\\[0\\]"),
        ([{**AGE, "datatype": "INT64"}, BOX], "FP64"),
        ([{**AGE, "shape": [3]}, BOX], "2 rows"),
        ([{**AGE, "shape": [2, 1]}, BOX], "shape"),
        ([{**AGE, "data": "x"}, BOX], "data"),
        ([{**AGE, "data": ["x", 1]}, BOX], "'age'"),
        ([AGE, {**BOX, "data": [1, 2, 3]}], "box"),
        ([{**AGE, "shape": [2], "data": [1, 2]}, {**BOX, "shape": [1, 2], "data": [1, 2]}], "different numbers"),
    ],
)
def test_wrong_columns_are_refused_by_name(inputs: list[object], named: str) -> None:
    with pytest.raises(RequestError, match=named):
        parse(json.dumps({"inputs": inputs}).encode(), TABULAR, TabularInputs(COLUMNS))
