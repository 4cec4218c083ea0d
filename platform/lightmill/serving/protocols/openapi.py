"""OpenAPI 3.1 of an endpoint, from its signature: every route, every form of body, and examples that work."""

from __future__ import annotations

import math
from typing import Any

from lightmill.records.signature import TensorSpec
from lightmill.serving.protocols import arrow, images, npy
from lightmill.serving.protocols.forms import BINARY, JSON
from lightmill.serving.protocols.values import dump
from lightmill.serving.tensors import BF16, BYTES, DTYPES, FP16, ModelDescription, shape_text

EXAMPLE_SIZE = 4  # of a dimension that may have any size
_LARGEST_EXAMPLE = 4096
_ERRORS = {
    "400": "A field is malformed or does not fit the signature; the message names it.",
    "401": "No API key, or a wrong one.",
    "404": "There is no such route or version.",
    "405": "The route takes another method.",
    "406": "No type that Accept names is written here.",
    "408": "The body did not come in time.",
    "413": "The body, or what it expands to, is too large.",
    "415": "The type or encoding of the body is not read here.",
    "429": "Too many requests; wait as long as Retry-After says.",
    "500": "The model failed; the replica's log says why.",
    "503": "The replica is too busy, or the request's timeout has passed; try again.",
}


def document(model: ModelDescription) -> bytes:
    """Return the OpenAPI document of an endpoint as JSON."""
    base = f"/v2/models/{model.name}"
    paths = {
        base: _get("metadata", "Name, versions, inputs and outputs", _ref("Metadata")),
        f"{base}/ready": _get("ready", "Whether the model is ready", _ref("Ready")),
        f"{base}/infer": _infer(model),
        f"{base}/stats": _get("statistics", "Statistics in Triton's shape", {"type": "object"}),
        f"{base}/openapi.json": _get("openapi", "This document", {"type": "object"}),
    }
    return dump(
        {
            "openapi": "3.1.0",
            "info": {
                "title": model.name,
                "version": model.version,
                "description": f"Inference on {model.name}, by the Open Inference Protocol v2 and other forms of body.",
            },
            "paths": paths,
            "components": {"schemas": _schemas(model), "securitySchemes": _SECURITY},
            "security": [{"bearer": []}, {"key": []}],
        }
    )


_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def example(model: ModelDescription) -> dict[str, Any]:
    """Return a request of one row that fits the signature, in JSON."""
    return {"inputs": [_example_tensor(spec, model) for spec in model.signature.inputs]}


def example_value(spec: TensorSpec) -> Any:
    """Return one row of an input, nested as its shape says."""
    sizes = [EXAMPLE_SIZE if size < 0 else size for size in spec.shape[1:]]
    found: Any = _scalar(spec.datatype)
    if math.prod(sizes) > _LARGEST_EXAMPLE:
        return []
    for size in reversed(sizes):
        found = [found] * size
    return found


def _scalar(datatype: str) -> Any:
    if datatype == "BOOL":
        return False
    if datatype == BYTES:
        return "text"
    return 0.0 if datatype in (FP16, BF16, "FP32", "FP64") else 0


def _example_tensor(spec: TensorSpec, model: ModelDescription) -> dict[str, Any]:
    shape = [1, *(EXAMPLE_SIZE if size < 0 else size for size in spec.shape[1:])]
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": [example_value(spec)]}


def _infer(model: ModelDescription) -> dict[str, Any]:
    content: dict[str, Any] = {
        JSON: {"schema": _ref("InferRequest"), "example": example(model)},
        BINARY: {"schema": {"type": "string", "format": "binary"}},
        arrow.ARROW: {"schema": {"type": "string", "format": "binary"}},
        npy.NPZ: {"schema": {"type": "string", "format": "binary"}},
        images.MULTIPART: {"schema": {"type": "object"}},
    }
    if len(model.signature.inputs) == 1:
        content[npy.NPY] = {"schema": {"type": "string", "format": "binary"}}
    if model.by_column:
        content[JSON]["schema"] = {"anyOf": [_ref("InferRequest"), _ref("Rows")]}
        rows = [{spec.name: example_value(spec) for spec in model.signature.inputs}]
        content[JSON] = {
            "schema": content[JSON]["schema"],
            "examples": {"columns": {"value": example(model)}, "rows": {"value": rows}},
        }
    answers: dict[str, Any] = {
        JSON: {"schema": {"anyOf": [_ref("InferResponse"), {"type": "array", "items": {"type": "object"}}]}},
        **{
            media: {"schema": {"type": "string", "format": "binary"}}
            for media in (BINARY, arrow.ARROW, npy.NPY, npy.NPZ)
        },
    }
    length = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "The length of the JSON before binary tensors, in bytes.",
        "schema": {"type": "integer", "minimum": 0},
    }
    return {
        "post": {
            "operationId": "infer",
            "summary": "Ask the model",
            "parameters": [length],
            "requestBody": {"required": True, "content": content},
            "responses": {"200": {"description": "The outputs", "content": answers}, **_errors()},
        }
    }


def _get(operation: str, summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    good = {"description": summary, "content": {JSON: {"schema": schema}}}
    return {"get": {"operationId": operation, "summary": summary, "responses": {"200": good, **_errors()}}}


def _errors() -> dict[str, Any]:
    return {
        status: {"description": text, "content": {JSON: {"schema": _ref("Error")}}} for status, text in _ERRORS.items()
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _schemas(model: ModelDescription) -> dict[str, Any]:
    text = {"type": "string"}
    shape = {"type": "array", "items": {"type": "integer"}}
    described = _object(["name", "datatype", "shape"], name=text, datatype={"enum": list(DTYPES)}, shape=shape)
    tensor = _object(
        ["name", "datatype", "shape"],
        name=text,
        datatype={"enum": list(DTYPES)},
        shape=shape,
        parameters={"type": "object"},
        data={"type": "array"},
    )
    wanted = _object(
        ["name"], name={"enum": [spec.name for spec in model.signature.outputs]}, parameters=_ref("Parameters")
    )
    inputs = {"anyOf": [_input(spec) for spec in model.signature.inputs]}
    return {
        "Error": _object(["error"], error=text),
        "Ready": _object(["ready"], name=text, ready={"type": "boolean"}),
        "Metadata": _object(
            ["name", "platform", "inputs", "outputs"],
            name=text,
            versions={"type": "array", "items": text},
            platform=text,
            inputs={"type": "array", "items": described},
            outputs={"type": "array", "items": described},
        ),
        "Parameters": {"type": "object", "additionalProperties": {"type": ["boolean", "number", "string"]}},
        "InferRequest": _object(
            ["inputs"],
            id=text,
            parameters=_ref("Parameters"),
            inputs={"type": "array", "minItems": 1, "items": inputs},
            outputs={"type": "array", "items": wanted},
        ),
        "InferResponse": _object(
            ["model_name", "outputs"],
            model_name=text,
            model_version=text,
            id=text,
            parameters=_ref("Parameters"),
            outputs={"type": "array", "items": tensor},
        ),
        "Rows": {"type": "array", "minItems": 1, "items": {"type": "object"}},
    }


def _input(spec: TensorSpec) -> dict[str, Any]:
    sizes = [{"type": "integer", "minimum": 1} if size < 0 else {"const": size} for size in spec.shape]
    shape = {"type": "array", "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)}
    return _object(
        ["name", "datatype", "shape"],
        name={"const": spec.name},
        datatype={"const": spec.datatype, "description": f"Shape {shape_text(spec.shape)}"},
        shape=shape,
        parameters=_ref("Parameters"),
        data={"type": "array", "description": "Values, flat or nested"},
    )
