"""TensorFlow Serving's REST API, which KServe calls v1: predictions in rows or columns, status and metadata.

`instances` are rows and are answered with `predictions`; `inputs` are columns and are answered with `outputs`. Of one
output alone the values are given without its name. Source: tensorflow/serving, `g3doc/api_rest.md`.
"""

from __future__ import annotations

import base64
from typing import Any, NoReturn

from lightmill.errors import NotOfferedError, RequestError
from lightmill.records.signature import TensorSpec
from lightmill.serving.protocols import oip, rows
from lightmill.serving.protocols.forms import JSON, Form, Reply, content_type
from lightmill.serving.protocols.values import as_object, dump, listed, load
from lightmill.serving.tensors import Body, InferRequest, InferResponse, ModelDescription, order_of, short

SIGNATURE = "serving_default"
BY_COLUMN = "v1.by_column"
_TENSORFLOW = {
    "BOOL": "DT_BOOL",
    "FP16": "DT_HALF",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "BF16": "DT_BFLOAT16",
    "BYTES": "DT_STRING",
}


def parse(body: Body, model: ModelDescription, form: Form) -> InferRequest:
    """Read the body of `:predict`.

    Raises:
        RequestError: It has not one of `instances` and `inputs`, or a value does not fit.
    """
    document = as_object(load(body))
    name = document.get("signature_name", SIGNATURE)
    if name not in (SIGNATURE, ""):
        raise RequestError(f"Field 'signature_name' must be {SIGNATURE!r}, the only one; given {short(name)}.")
    if ("instances" in document) == ("inputs" in document):
        raise RequestError("The body must have one of 'instances' (rows) and 'inputs' (columns), not both.")
    given = oip.read_parameters(document.get("parameters"), "parameters")
    priority, timeout_s = order_of(given)
    by_column = "inputs" in document
    if by_column:
        inputs = _columns(document["inputs"], model)
    else:
        inputs = rows.tensors(document["instances"], model, "Field 'instances'")
    return InferRequest(
        inputs=inputs,
        outputs=form.outputs,
        parameters={**given, BY_COLUMN: by_column},
        priority=priority,
        timeout_s=timeout_s,
    )


def _columns(inputs: Any, model: ModelDescription) -> tuple[Any, ...]:
    specs = model.signature.inputs
    if len(specs) == 1 and not (type(inputs) is dict and specs[0].name in inputs):
        inputs = {specs[0].name: inputs}
    if type(inputs) is not dict or inputs.keys() != {spec.name for spec in specs}:
        wanted = ", ".join(spec.name for spec in specs)
        given = short(sorted(inputs)) if type(inputs) is dict else short(inputs)
        raise RequestError(f"Field 'inputs' must be an object with {wanted}; given {given}.")
    return tuple(rows.of_values(_listed(inputs[spec.name], spec), spec, model) for spec in specs)


def _listed(values: Any, spec: TensorSpec) -> list[Any]:
    if type(values) is not list or not values:
        raise RequestError(f"Field inputs[{spec.name!r}] must be a list of at least one row; given {short(values)}.")
    return values


def write(response: InferResponse, request: InferRequest) -> Reply:
    """Return predictions in the form of the request."""
    if request.parameters.get(BY_COLUMN):
        columns = {tensor.name: _written(tensor.name, tensor.array) for tensor in response.outputs}
        outputs: Any = next(iter(columns.values())) if len(columns) == 1 else columns
        return Reply(body=dump({"outputs": outputs}), headers=content_type(JSON))
    if len(response.outputs) == 1:
        (tensor,) = response.outputs
        predictions: list[Any] = _written(tensor.name, tensor.array)
    else:
        columns = {tensor.name: _written(tensor.name, tensor.array) for tensor in response.outputs}
        predictions = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return Reply(body=dump({"predictions": predictions}), headers=content_type(JSON))


def _written(name: str, array: Any) -> list[Any]:
    """Return nested lists; as in TensorFlow Serving, an output named `..._bytes` is written as base64."""
    if array.dtype.kind == "O" and name.endswith("_bytes"):
        return _base64(array.tolist())
    return listed(array, repr(name))


def _base64(value: Any) -> Any:
    if isinstance(value, list):
        return [_base64(each) for each in value]
    return {"b64": base64.b64encode(value.encode() if isinstance(value, str) else value).decode()}


def status(model: ModelDescription) -> bytes:
    """Return the body of a model's status; of a listed model it is the version that answers now."""
    answer = {"version": model.version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    # `name` and `ready` are KServe's answer on the same path.
    return dump({"model_version_status": [answer], "name": model.name, "ready": True})


def metadata(model: ModelDescription) -> bytes:
    """Return the body of `/metadata`."""
    definition = {
        "inputs": {spec.name: _tensor_info(spec) for spec in model.signature.inputs},
        "outputs": {spec.name: _tensor_info(spec) for spec in model.signature.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    return dump(
        {
            "model_spec": {"name": model.name, "signature_name": "", "version": model.version},
            "metadata": {"signature_def": {"signature_def": {SIGNATURE: definition}}},
        }
    )


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    shape = {"dim": [{"size": str(size), "name": ""} for size in spec.shape], "unknown_rank": False}
    return {"dtype": _TENSORFLOW.get(spec.datatype, f"DT_{spec.datatype}"), "tensor_shape": shape, "name": spec.name}


def refuse(verb: str) -> NoReturn:
    """Refuse a verb of the protocol other than `predict`.

    Raises:
        NotOfferedError: Always, for a verb that is known.
        RequestError: The protocol has no such verb.
    """
    if verb in ("explain", "classify", "regress"):
        raise NotOfferedError(f"':{verb}' is not offered here yet; ask with ':predict'.")
    raise RequestError(f"There is no ':{short(verb)[1:-1]}'; ask with ':predict'.")
