"""Open Inference Protocol v2 over gRPC: messages to requests and back.

Source: kserve/open-inference-protocol, `open_inference_grpc.proto`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lightmill.errors import RequestError
from lightmill.serving.fitting import check_datatype, check_shape, checked_datatype, field_of
from lightmill.serving.protocols import binary, oip
from lightmill.serving.protocols.generated import open_inference_pb2 as pb
from lightmill.serving.tensors import (
    BF16,
    BYTES,
    DTYPES,
    FP16,
    Array,
    InferRequest,
    InferResponse,
    ModelDescription,
    Parameters,
    Tensor,
    WantedOutput,
    order_of,
    short,
)

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}


def parse(message: pb.ModelInferRequest, model: ModelDescription) -> InferRequest:
    """Read an inference request.

    Raises:
        RequestError: A tensor is malformed or cannot be what the signature says; the message names the field.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise RequestError(
            f"Field 'raw_input_contents' must hold one element for each of {len(message.inputs)} inputs; "
            f"given {len(raw)}."
        )
    if not message.inputs:
        raise RequestError("Field 'inputs' must hold at least one input.")
    parameters = _parameters(message.parameters)
    priority, timeout_s = order_of(parameters)
    inputs = [_tensor(each, raw[place] if raw else None, model) for place, each in enumerate(message.inputs)]
    return InferRequest(
        inputs=tuple(inputs),
        outputs=tuple(_output(each, model) for each in message.outputs),
        id=message.id or None,
        parameters=parameters,
        priority=priority,
        timeout_s=timeout_s,
    )


def _tensor(message: Any, raw: bytes | None, model: ModelDescription) -> Tensor:
    name, shape = message.name, list(message.shape)
    field = field_of(name)
    datatype = checked_datatype(field, message.datatype)
    spec = next((spec for spec in model.signature.inputs if spec.name == name), None)
    if spec is None:
        known = ", ".join(spec.name for spec in model.signature.inputs)
        raise RequestError(f"Field 'inputs' must hold {known}; given {short(name)}.")
    check_datatype(field, datatype, spec)
    check_shape(field, shape, spec)
    if min(shape) < 0:
        raise RequestError(f"Field {field}.shape must be a list of sizes from 0; given {shape[:8]}.")
    if raw is None:
        return Tensor(name=name, datatype=datatype, array=_values(message.contents, datatype, shape, field))
    if message.HasField("contents"):
        raise RequestError(f"Field {field} has both contents and raw_input_contents; send one of them.")
    return Tensor(name=name, datatype=datatype, array=binary.decode(raw, shape, datatype, field))


def _values(contents: Any, datatype: str, shape: list[int], field: str) -> Array:
    if datatype in (FP16, BF16):
        raise RequestError(f"Field {field}: {datatype} has no typed contents; send it in raw_input_contents.")
    wanted = _CONTENTS[datatype]
    for descriptor, _ in contents.ListFields():
        if descriptor.name != wanted:
            raise RequestError(f"Field {field}.contents must be {wanted} for {datatype}; given {descriptor.name}.")
    values = getattr(contents, wanted)
    if len(values) != math.prod(shape):
        raise RequestError(
            f"Field {field}.contents has {len(values)} values, but shape {shape} expects {math.prod(shape)}."
        )
    dtype = DTYPES[datatype]
    if datatype == BYTES:
        return np.fromiter(values, dtype=object, count=len(values)).reshape(shape)
    found = np.array(values, dtype=DTYPES["UINT64" if dtype.kind == "u" else "INT64"] if dtype.kind in "iu" else dtype)
    if dtype.kind in "iu":
        limits: Any = np.iinfo(dtype)
        if found.size and (int(found.min()) < limits.min or int(found.max()) > limits.max):
            raise RequestError(
                f"Field {field}.contents holds a value outside {limits.min} to {limits.max}, the range of {datatype}."
            )
    return found.astype(dtype).reshape(shape)


def _output(message: Any, model: ModelDescription) -> WantedOutput:
    known = [spec.name for spec in model.signature.outputs]
    if message.name not in known:
        raise RequestError(f"Field 'outputs' asks for {short(message.name)}; there is {known}.")
    classes = oip.classes_of(_parameters(message.parameters), f"outputs[{message.name!r}].parameters")
    return WantedOutput(name=message.name, classes=classes)


def _parameters(messages: Mapping[str, Any]) -> Parameters:
    found = {}
    for name, message in messages.items():
        chosen = message.WhichOneof("parameter_choice")
        if chosen is None:
            raise RequestError(f"Field parameters.{short(name)[1:-1]} has no value.")
        found[name] = getattr(message, chosen)
    return found


def metadata(model: ModelDescription) -> pb.ModelMetadataResponse:
    """Return the model metadata."""
    found = pb.ModelMetadataResponse(name=model.name, versions=[model.version], platform=oip.PLATFORM)
    for spec in model.signature.inputs:
        found.inputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    for spec in model.signature.outputs:
        found.outputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    return found


def write(response: InferResponse) -> pb.ModelInferResponse:
    """Return the answer, its tensors as raw contents."""
    message = pb.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id or "")
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        message.raw_output_contents.append(bytes(binary.encode(tensor)))
    return message
