"""Open Inference Protocol v2 over HTTP: JSON, and tensors in bytes after it (`binary`).

Sources: kserve/open-inference-protocol, `inference_rest.md`; Triton, `extension_binary_data.md`,
`extension_classification.md`, `extension_schedule_policy.md` (priority and timeout), `extension_statistics.md`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import orjson

from lightmill.errors import RequestError
from lightmill.records.signature import TensorSpec
from lightmill.serving.fitting import check_datatype, check_shape, field_of, fits
from lightmill.serving.protocols import binary
from lightmill.serving.protocols.forms import BINARY, JSON, Form, Reply, content_type
from lightmill.serving.protocols.values import array_of, as_object, dump, listed, load, rows_of
from lightmill.serving.tensors import (
    BF16,
    BYTES,
    FP16,
    Array,
    Body,
    InferRequest,
    InferResponse,
    ModelDescription,
    Parameters,
    Tensor,
    WantedOutput,
    kind_of,
    order_of,
    shape_text,
    short,
)

PLATFORM = "lightmill_torch"
EXTENSIONS = (
    "binary_tensor_data",
    "binary_tensor_data_output",
    "classification",
    "model_repository",
    "schedule_policy",
    "statistics",
)
_JSON_HEADERS = content_type(JSON)
_MOST_CLASSES = 1 << 16
_WITHOUT_JSON = frozenset((FP16, BF16))


def parse(body: Body, model: ModelDescription, form: Form) -> InferRequest:
    """Read an inference request.

    Raises:
        RequestError: It is no JSON, a field is malformed, or a tensor cannot be what the signature says; the message
            names the field, what is expected and what was given.
    """
    if form.json_bytes is None:
        return read(load(body), model, None)
    blocks = binary.Blocks(body, form.json_bytes)
    request = read(load(blocks.json), model, blocks)
    blocks.finish()
    return request


def read(document: Any, model: ModelDescription, blocks: binary.Blocks | None) -> InferRequest:
    """Read an inference request from its JSON value, and tensors that follow it from `blocks`; see `parse`."""
    document = as_object(document)
    id = document.get("id")
    if id is not None and type(id) is not str:
        raise RequestError(f"Field 'id' must be a string, but is {kind_of(id)}.")
    inputs, outputs, parameters = document.get("inputs"), document.get("outputs"), document.get("parameters")
    specs = model.signature.inputs
    if type(inputs) is not list or not inputs:
        raise RequestError(f"Field 'inputs' must be a list with {_wanted(model)}; given {kind_of(inputs)}.")
    tensors = tuple([_tensor(entry, place, specs, model, blocks) for place, entry in enumerate(inputs)])
    if outputs is None and parameters is None:
        return InferRequest(inputs=tensors, id=id)
    found = read_parameters(parameters, "parameters")
    priority, timeout_s = order_of(found)
    wanted = read_outputs(outputs, model)
    return InferRequest(inputs=tensors, outputs=wanted, id=id, parameters=found, priority=priority, timeout_s=timeout_s)


def read_parameters(value: Any, field: str) -> Parameters:
    """Return parameters by name.

    Raises:
        RequestError: They are no object, or a value is no string, number or boolean.
    """
    if value is None:
        return {}
    for name, each in as_object(value, f"Field {field}").items():
        if type(each) not in (bool, int, float, str):
            raise RequestError(
                f"Field {field}.{short(name)[1:-1]} must be a string, a number or a boolean, but is {kind_of(each)}."
            )
    return value


def _tensor(
    entry: Any, place: int, specs: Sequence[TensorSpec], model: ModelDescription, blocks: binary.Blocks | None
) -> Tensor:
    if type(entry) is not dict:
        raise RequestError(f"Field 'inputs[{place}]' must be an object, but is {kind_of(entry)}.")
    name, shape, data = entry.get("name"), entry.get("shape"), entry.get("data")
    spec = specs[0]
    if spec.name != name and (spec := next((spec for spec in specs if spec.name == name), None)) is None:
        raise RequestError(f"Field 'inputs' must hold {_wanted(model)}; given names {_names(name)}.")
    field = field_of(spec.name)
    datatype: Any = entry.get("datatype")
    if datatype != spec.datatype:
        check_datatype(field, datatype, spec)
    if type(shape) is not list or not _are_sizes(shape):
        raise RequestError(
            f"Field {field}.shape must be a list of sizes that fits {shape_text(spec.shape)}; given {short(shape)}."
        )
    if not fits(shape, spec.shape):
        check_shape(field, shape, spec)
    size = None
    if "parameters" in entry:
        size = read_parameters(entry["parameters"], f"{field}.parameters").get("binary_data_size")
    if size is not None:
        array = _block(size, shape, datatype, field, data, blocks)
    elif type(data) is not list:
        raise RequestError(f"Field {field}.data must be a list of {spec.datatype} values; given {kind_of(data)}.")
    elif model.by_column:
        array = _column(data, shape, spec, field)
    else:
        array = _shaped(array_of(data, datatype, field), shape, field)
    return Tensor(name=spec.name, datatype=datatype, array=array)


def _are_sizes(shape: list[Any]) -> bool:
    for size in shape:  # noqa: SIM110 - a generator takes twice as long
        if type(size) is not int or size < 0:
            return False
    return True


def _block(size: Any, shape: list[int], datatype: str, field: str, data: Any, blocks: binary.Blocks | None) -> Array:
    if blocks is None:
        raise RequestError(
            f"Field {field}.parameters.binary_data_size says that bytes follow the JSON; say how long the JSON is in "
            "the header Inference-Header-Content-Length."
        )
    if data is not None:
        raise RequestError(f"Field {field} has both data and parameters.binary_data_size; send one of them.")
    return blocks.take(size, shape, datatype, field)


def _shaped(values: Array, shape: list[int], field: str) -> Array:
    if values.shape == tuple(shape):
        return values
    if values.size != math.prod(shape):
        raise RequestError(
            f"Field {field}.data has {values.size} values, but shape {shape} expects {math.prod(shape)}."
        )
    if values.ndim > 1:
        raise RequestError(f"Field {field}.data is nested as {list(values.shape)}, but shape says {shape}.")
    return values.reshape(shape)


def _column(data: list[Any], shape: list[int], spec: TensorSpec, field: str) -> Array:
    """Return the rows of a named column; null is a missing value, which the protocol has no word for."""
    if not data:
        raise RequestError(f"Field {field}.data must be a list of {spec.datatype} values; it is empty.")
    if len(shape) > 1 and not isinstance(data[0], list | None):
        width = math.prod(shape[1:])
        if width * shape[0] != len(data):
            raise RequestError(
                f"Field {field}.data has {len(data)} values, but shape {shape} expects {math.prod(shape)}."
            )
        data = [data[start : start + width] for start in range(0, len(data), width)]
    if len(data) != shape[0]:
        raise RequestError(f"Field {field}.data has {len(data)} rows, but shape {shape} expects {shape[0]}.")
    return rows_of(data)


def read_outputs(outputs: Any, model: ModelDescription) -> tuple[WantedOutput, ...]:
    """Return the wanted outputs.

    Raises:
        RequestError: They are no list of objects, or there is no output of a name.
    """
    if outputs is None:
        return ()
    if type(outputs) is not list or not all(type(entry) is dict for entry in outputs):
        known = [spec.name for spec in model.signature.outputs]
        raise RequestError(f"Field 'outputs' must be a list of objects with a name of {known}.")
    return tuple([_output(entry, model) for entry in outputs])


def _output(entry: dict[str, Any], model: ModelDescription) -> WantedOutput:
    name = entry.get("name")
    known = [spec.name for spec in model.signature.outputs]
    if name not in known:
        raise RequestError(f"Field 'outputs' asks for {short(name)}; there is {known}.")
    field = f"outputs[{name!r}].parameters"
    parameters = read_parameters(entry.get("parameters"), field)
    binary_data = parameters.get("binary_data")
    if binary_data is not None and type(binary_data) is not bool:
        raise RequestError(f"Field {field}.binary_data must be true or false; given {short(binary_data)}.")
    return WantedOutput(name=name, classes=classes_of(parameters, field), binary=binary_data)


def classes_of(parameters: Parameters, field: str) -> int:
    """Return how many classes the classification extension asks for, 0 for none.

    Raises:
        RequestError: It is no whole number from 0.
    """
    classes = parameters.get("classification", 0)
    if type(classes) is not int or not 0 <= classes <= _MOST_CLASSES:
        raise RequestError(f"Field {field}.classification must be a whole number from 0; given {short(classes)}.")
    return classes


def write(response: InferResponse, request: InferRequest) -> Reply:
    """Return the response; tensors that were asked for in bytes follow the JSON.

    Raises:
        RequestError: An output has no form in JSON, and bytes were not asked for.
    """
    # `binary_data_output` speaks for outputs that do not speak for themselves.
    default = request.parameters.get("binary_data_output") is True if request.parameters else False
    return _written(response, request, default)


def write_binary(response: InferResponse, request: InferRequest) -> Reply:
    """Return the response with all tensors in bytes, but for those that were asked for as JSON."""
    return _written(response, request, True)


def _written(response: InferResponse, request: InferRequest, default: bool) -> Reply:
    asked = {output.name: output.binary for output in request.outputs} if request.outputs else {}
    outputs: list[dict[str, Any]] = []
    blocks: list[binary.Block] = []
    for tensor in response.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.array.shape}
        chosen = asked.get(tensor.name) if asked else None
        if default if chosen is None else chosen:
            block = binary.encode(tensor)
            entry["parameters"] = {"binary_data_size": binary.size_of(block)}
            blocks.append(block)
        else:
            entry["data"] = _data(tensor)
        outputs.append(entry)
    document: dict[str, Any] = {"model_name": response.model, "model_version": response.version, "outputs": outputs}
    if response.id is not None:
        document["id"] = response.id
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not blocks:
        return Reply(body=text, headers=_JSON_HEADERS)
    headers = (*content_type(BINARY), (b"inference-header-content-length", str(len(text)).encode()))
    return Reply(body=b"".join([text, *blocks]), headers=headers)


def _data(tensor: Tensor) -> Any:
    if tensor.datatype in _WITHOUT_JSON:
        raise RequestError(
            f"Output {tensor.name!r} is {tensor.datatype}, which has no form in JSON; ask for it with "
            "parameters.binary_data true."
        )
    if tensor.datatype == BYTES:
        return listed(tensor.array.reshape(-1), repr(tensor.name))
    return tensor.array.ravel()  # a view where it lies in order


def metadata(model: ModelDescription) -> bytes:
    """Return the model metadata body."""
    return dump(
        {
            "name": model.name,
            "versions": [model.version],
            "platform": PLATFORM,
            "inputs": [_described(spec) for spec in model.signature.inputs],
            "outputs": [_described(spec) for spec in model.signature.outputs],
        }
    )


def server_metadata(name: str, version: str) -> bytes:
    """Return the server metadata body."""
    return dump({"name": name, "version": version, "extensions": list(EXTENSIONS)})


def error(message: str) -> bytes:
    """Return an error body in the protocol's form."""
    return dump({"error": message})


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _wanted(model: ModelDescription) -> str:
    specs = model.signature.inputs
    if model.by_column:
        return f"one input for each of {', '.join(spec.name for spec in specs)}"
    spec = specs[0]
    return f"one input named {spec.name!r}, {spec.datatype} {shape_text(spec.shape)}"


def _names(name: Any) -> str:
    return short([name])
