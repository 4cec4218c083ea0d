"""Open Inference Protocol v2, JSON form: requests to arrays, arrays to responses. Pure.

Source: kserve/open-inference-protocol, `inference_rest.md`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from lightmill.errors import RequestError
from lightmill.models.inputs import TabularInputs
from lightmill.records.signature import Signature, TensorSpec

PLATFORM = "lightmill_torch"
NUMPY_TYPES: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
    "FP64": np.float64,
}

_FITTING: dict[str, tuple[type, ...]] = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """A request that fits the signature. `outputs` are the wanted names, in order; `id` is echoed."""

    id: str | None
    features: npt.NDArray[Any]
    outputs: tuple[str, ...]


def parse_infer(body: bytes | bytearray, signature: Signature, tabular: TabularInputs | None = None) -> InferRequest:
    """Read an inference request; the inputs of a `tabular` model are prepared here, row by row.

    Raises:
        RequestError: It is no JSON, or a field does not fit the signature; the message names the field, what
            is expected and what was given.
    """
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise RequestError(f"The body is not valid JSON: {exc}.") from exc
    if not isinstance(request, dict):
        raise RequestError(f"The body must be a JSON object, but is {_kind(request)}.")
    id = request.get("id")
    if id is not None and not isinstance(id, str):
        raise RequestError(f"Field 'id' must be a string, but is {_kind(id)}.")
    if tabular:
        features = tabular.features(tabular.table(_read_columns(request.get("inputs"), signature)))
    else:
        spec = signature.inputs[0]
        features = _read_tensor(_only_input(request.get("inputs"), spec), spec)
    return InferRequest(
        id=id,
        features=features,
        outputs=_wanted(request.get("outputs"), signature),
    )


def _read_columns(inputs: object, signature: Signature) -> dict[str, list[Any]]:
    """Return the values of every column; null is a missing value, which the protocol has no word for."""
    specs = {spec.name: spec for spec in signature.inputs}
    wanted = f"one input for each of {', '.join(specs)}"
    if not isinstance(inputs, list) or not inputs:
        raise RequestError(f"Field 'inputs' must be a list with {wanted}; given {_kind(inputs)}.")
    found: dict[str, list[Any]] = {}
    for position, entry in enumerate(inputs):
        if not isinstance(entry, dict):
            raise RequestError(f"Field 'inputs[{position}]' must be an object, but is {_kind(entry)}.")
        name = entry.get("name")
        spec = specs.get(name) if isinstance(name, str) else None
        if spec is None or name in found:
            raise RequestError(f"Field 'inputs' must hold {wanted}; given {_short(name)}.")
        field = f"inputs[{name!r}]"
        if entry.get("datatype") != spec.datatype:
            raise RequestError(
                f"Field {field}.datatype must be {spec.datatype!r}; given {_short(entry.get('datatype'))}."
            )
        data, shape = entry.get("data"), entry.get("shape")
        if not isinstance(data, list) or not data:
            raise RequestError(f"Field {field}.data must be a list of {spec.datatype} values; given {_kind(data)}.")
        if (
            not isinstance(shape, list)
            or not all(type(size) is int and size > 0 for size in shape)
            or not _fits(shape, spec.shape)
        ):
            raise RequestError(f"Field {field}.shape must fit {_shape(spec.shape)}; given {_short(shape)}.")
        if len(shape) > 1 and not isinstance(data[0], list | None):
            width = math.prod(shape[1:])
            data = [data[start : start + width] for start in range(0, len(data), width)]
        if len(data) != shape[0]:
            raise RequestError(f"Field {field}.data has {len(data)} rows, but shape {shape} expects {shape[0]}.")
        found[spec.name] = data
    return found


def _only_input(inputs: object, spec: TensorSpec) -> dict[str, Any]:
    wanted = f"one input named {spec.name!r}, {spec.datatype} {_shape(spec.shape)}"
    if not isinstance(inputs, list) or not inputs:
        raise RequestError(f"Field 'inputs' must be a list with {wanted}; given {_kind(inputs)}.")
    for position, entry in enumerate(inputs):
        if not isinstance(entry, dict):
            raise RequestError(f"Field 'inputs[{position}]' must be an object, but is {_kind(entry)}.")
    names = [entry.get("name") for entry in inputs]
    if names != [spec.name]:
        raise RequestError(f"Field 'inputs' must hold {wanted}; given names {names[:8]}.")
    return inputs[0]


def _read_tensor(entry: dict[str, Any], spec: TensorSpec) -> npt.NDArray[Any]:
    field = f"inputs[{spec.name!r}]"
    if entry.get("datatype") != spec.datatype:
        raise RequestError(f"Field {field}.datatype must be {spec.datatype!r}; given {_short(entry.get('datatype'))}.")
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise RequestError(
            f"Field {field}.shape must be a list of sizes that fits {_shape(spec.shape)}; given {_short(shape)}."
        )
    if not _fits(shape, spec.shape) or not shape[0]:
        raise RequestError(
            f"Field {field}.shape must fit {_shape(spec.shape)} with at least one row; given {shape[:8]}."
        )
    data = entry.get("data")
    if not isinstance(data, list):
        raise RequestError(f"Field {field}.data must be a list of {spec.datatype} values; given {_kind(data)}.")
    values = _to_array(data, spec, field)
    if values.size != math.prod(shape):
        raise RequestError(
            f"Field {field}.data has {values.size} values, but shape {shape} expects {math.prod(shape)}."
        )
    if values.ndim > 1 and list(values.shape) != shape:
        raise RequestError(f"Field {field}.data is nested as {list(values.shape)}, but shape says {shape}.")
    return values.reshape(shape)


def _to_array(data: list[Any], spec: TensorSpec, field: str) -> npt.NDArray[Any]:
    wanted = np.dtype(NUMPY_TYPES[spec.datatype])
    # Types are checked before NumPy sees the list: of mixed text it would make an array of its longest text.
    if not _leaf_types(data) <= set(_FITTING[wanted.kind]):
        raise RequestError(
            f"Field {field}.data must hold {spec.datatype} values only; it holds something else, such as "
            f"{_short(_first_odd(data, wanted.kind))}."
        )
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError) as exc:
        raise RequestError(f"Field {field}.data is ragged; every row must have the same length.") from exc
    if values.dtype.kind not in "biuf":
        raise RequestError(f"Field {field}.data holds a number beyond what {spec.datatype} can hold.")
    if wanted.kind in "iu" and values.size:
        limits: Any = np.iinfo(wanted.name)
        if int(values.min()) < limits.min or int(values.max()) > limits.max:
            raise RequestError(
                f"Field {field}.data holds a value outside {limits.min} to {limits.max}, the range of {spec.datatype}."
            )
    with np.errstate(over="ignore"):
        found = values.astype(wanted)
    if wanted.kind == "f" and not np.isfinite(found).all():
        raise RequestError(f"Field {field}.data holds a value that {spec.datatype} cannot hold.")
    return found


def _leaf_types(data: list[Any]) -> set[type]:
    """Return the types of all values below nested lists."""
    found: set[type] = set()
    waiting = [data]
    while waiting:
        row = waiting.pop()
        kinds = set(map(type, row))
        if list in kinds:
            waiting.extend(value for value in row if type(value) is list)
            kinds.discard(list)
        found |= kinds
    return found


def _first_odd(data: object, kind: str) -> object:
    """Return the first leaf that does not fit an array of this kind, to show it."""
    fitting = _FITTING[kind]
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(reversed(value))
        elif not isinstance(value, fitting) or (isinstance(value, bool) and kind != "b"):
            return value
    return data if not isinstance(data, list) else data[:3]


def _wanted(outputs: object, signature: Signature) -> tuple[str, ...]:
    known = tuple(spec.name for spec in signature.outputs)
    if outputs is None or outputs == []:
        return known
    if not isinstance(outputs, list) or not all(isinstance(entry, dict) for entry in outputs):
        raise RequestError(f"Field 'outputs' must be a list of objects with a name of {list(known)}.")
    names = tuple(entry.get("name") for entry in outputs)
    for name in names:
        if name not in known:
            raise RequestError(f"Field 'outputs' asks for {_short(name)}; there is {list(known)}.")
    return names


def format_infer(
    model: str,
    version: str,
    request: InferRequest,
    signature: Signature,
    arrays: dict[str, npt.NDArray[Any]],
) -> bytes:
    """Return the response body; `arrays` holds every output by name, rows first."""
    outputs = []
    for name in request.outputs:
        spec = next(spec for spec in signature.outputs if spec.name == name)
        values = np.ascontiguousarray(arrays[name])
        outputs.append(
            {"name": name, "datatype": spec.datatype, "shape": list(values.shape), "data": values.reshape(-1)}
        )
    body: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        body["id"] = request.id
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def metadata(model: str, versions: Sequence[str], signature: Signature) -> bytes:
    """Return the model metadata body."""
    return orjson.dumps(
        {
            "name": model,
            "versions": list(versions),
            "platform": PLATFORM,
            "inputs": [_describe(spec) for spec in signature.inputs],
            "outputs": [_describe(spec) for spec in signature.outputs],
        }
    )


def error(message: str) -> bytes:
    """Return an error body in the protocol's form."""
    return orjson.dumps({"error": message})


def _describe(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(w in (-1, s) for s, w in zip(shape, wanted, strict=True))


def _shape(shape: Sequence[int]) -> str:
    return "[" + ", ".join("batch" if n == 0 and size == -1 else str(size) for n, size in enumerate(shape)) + "]"


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), "a number")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
