"""From the tensors of a request to the features that a model computes on, and from its answers to named outputs.

Whatever the protocol, this is where names, datatypes, shapes and values are held against the signature. A datatype that
loses nothing becomes the wanted one; nothing is ever rounded, wrapped or cut. Infinite values and NaN are refused: JSON
cannot say them, and the same request must mean the same through every protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lightmill.errors import RequestError
from lightmill.models.inputs import TabularInputs
from lightmill.records.signature import TensorSpec
from lightmill.serving.tensors import (
    BYTES,
    DATATYPES,
    DTYPES,
    Array,
    InferRequest,
    InferResponse,
    ModelDescription,
    Tensor,
    WantedOutput,
    shape_text,
    short,
    widened,
)

_SIGNED = ("INT8", "INT16", "INT32", "INT64")
_UNSIGNED = ("UINT8", "UINT16", "UINT32", "UINT64")
# Datatype to those that hold all its values; a float of n bits holds whole numbers of fewer bits than its fraction.
WIDENS: dict[str, frozenset[str]] = {
    "BOOL": frozenset(),
    "UINT8": frozenset({*_UNSIGNED[1:], *_SIGNED[1:], "FP16", "FP32", "FP64"}),
    "UINT16": frozenset({*_UNSIGNED[2:], *_SIGNED[2:], "FP32", "FP64"}),
    "UINT32": frozenset({"UINT64", "INT64", "FP64"}),
    "UINT64": frozenset(),
    "INT8": frozenset({*_SIGNED[1:], "FP16", "FP32", "FP64"}),
    "INT16": frozenset({*_SIGNED[2:], "FP32", "FP64"}),
    "INT32": frozenset({"INT64", "FP64"}),
    "INT64": frozenset(),
    "FP16": frozenset({"FP32", "FP64"}),
    "BF16": frozenset({"FP32", "FP64"}),
    "FP32": frozenset({"FP64"}),
    "FP64": frozenset(),
    BYTES: frozenset(),
}


def check_datatype(field: str, given: object, spec: TensorSpec) -> None:
    """Check that tensors of the given datatype go where `spec` is wanted.

    Raises:
        RequestError: They would lose values.
    """
    if given != spec.datatype and not (isinstance(given, str) and spec.datatype in WIDENS.get(given, ())):
        raise RequestError(f"Field {field}.datatype must be {spec.datatype!r}; given {short(given)}.")


def check_shape(field: str, shape: Sequence[int], spec: TensorSpec) -> None:
    """Check a shape against the one wanted.

    Raises:
        RequestError: It has another rank or other sizes, or no row.
    """
    if not fits(shape, spec.shape) or not shape[0]:
        raise RequestError(
            f"Field {field}.shape must fit {shape_text(spec.shape)} with at least one row; given {list(shape[:8])}."
        )


def fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Return whether a shape is the one wanted, in which -1 is any size."""
    if len(shape) != len(wanted):
        return False
    for size, want in zip(shape, wanted, strict=True):  # noqa: SIM110 - a generator takes twice as long
        if size != want and want != -1:
            return False
    return True


class Fitter:
    """Fits requests to one model. Thread-safe: nothing of it changes.

    `tabular` prepares the rows of a model of named columns; `check` refuses features that fit the signature and yet not
    the model.
    """

    def __init__(
        self,
        model: ModelDescription,
        tabular: TabularInputs | None = None,
        check: Callable[[Array], None] | None = None,
    ) -> None:
        self._model = model
        self._tabular = tabular
        self._check = check
        self._inputs = {spec.name: spec for spec in model.signature.inputs}
        self._only = model.signature.inputs[0]
        self._outputs = {spec.name: spec for spec in model.signature.outputs}
        self._datatypes = {spec.name: spec.datatype for spec in model.signature.outputs}
        self._name, self._version = model.name, model.version
        self._all = tuple(WantedOutput(name=name) for name in self._outputs)

    def features(self, request: InferRequest) -> Array:
        """Return what the batcher takes: [rows, *shape of a row].

        Raises:
            RequestError: A tensor does not fit; the message names the field, what is expected and what was given. Or an
                output that is asked for does not exist.
        """
        if request.outputs:
            self._check_outputs(request.outputs)
        if self._tabular:
            features: Array = self._tabular.features(self._tabular.table(self._columns(request.inputs)))
        else:
            inputs = request.inputs
            if len(inputs) != 1 or inputs[0].name != self._only.name:
                raise self._wrong_names(inputs)
            features = fitted(inputs[0], self._only)
        if self._check:
            self._check(features)
        return features

    def response(self, request: InferRequest, arrays: Mapping[str, Array]) -> InferResponse:
        """Return the answer to a request from every output by name, rows first.

        Raises:
            RequestError: The classes of an output are asked for that has none.
        """
        outputs = [self._output(wanted, arrays[wanted.name]) for wanted in request.outputs or self._all]
        return InferResponse(model=self._name, version=self._version, outputs=tuple(outputs), id=request.id)

    def _output(self, wanted: WantedOutput, array: Array) -> Tensor:
        if wanted.classes:
            return classification(array, wanted, self._model.classes)
        return Tensor(name=wanted.name, datatype=self._datatypes[wanted.name], array=array)

    def _check_outputs(self, outputs: Sequence[WantedOutput]) -> None:
        for wanted in outputs:
            if wanted.name not in self._outputs:
                raise RequestError(f"Field 'outputs' asks for {short(wanted.name)}; there is {list(self._outputs)}.")
            if wanted.classes and len(self._outputs[wanted.name].shape) < 2:
                raise RequestError(
                    f"Field outputs[{wanted.name!r}].parameters.classification asks for the likeliest classes of an "
                    "output with one value a row; ask for them of an output with one value a class."
                )

    def _wrong_names(self, inputs: Sequence[Tensor]) -> RequestError:
        spec = self._only
        return RequestError(
            f"Field 'inputs' must hold one input named {spec.name!r}, {spec.datatype} {shape_text(spec.shape)}; "
            f"given names {[tensor.name for tensor in inputs[:8]]}."
        )

    def _columns(self, inputs: Sequence[Tensor]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for tensor in inputs:
            spec = self._inputs.get(tensor.name)
            if spec is None or tensor.name in found:
                wanted = f"one input for each of {', '.join(self._inputs)}"
                raise RequestError(f"Field 'inputs' must hold {wanted}; given {short(tensor.name)}.")
            found[tensor.name] = _values(tensor, spec)
        return found


def fitted(tensor: Tensor, spec: TensorSpec) -> Array:
    """Return a tensor's array in the datatype that is wanted.

    Raises:
        RequestError: Its datatype, shape or a value does not fit.
    """
    array = tensor.array
    if tensor.datatype != spec.datatype:
        check_datatype(field_of(tensor.name), tensor.datatype, spec)
        array = widened(array, tensor.datatype, spec.datatype)
    if not fits(array.shape, spec.shape) or not len(array):
        check_shape(field_of(tensor.name), array.shape, spec)
    check_finite(array, spec.datatype, tensor.name)
    return array


def check_finite(array: Array, datatype: str, name: str) -> None:
    """Check that an array of numbers holds neither infinity nor NaN.

    Raises:
        RequestError: It does.
    """
    if array.dtype.kind != "f":
        return
    if np.count_nonzero(np.isfinite(array)) != array.size:
        raise RequestError(
            f"Field {field_of(name)}.data holds a value that {datatype} cannot hold, or infinity or NaN; send finite "
            "numbers."
        )


def field_of(name: str) -> str:
    """Return how messages call an input."""
    return f"inputs[{name!r}]"


def _values(tensor: Tensor, spec: TensorSpec) -> list[Any]:
    """Return the values of a column, None where one is missing."""
    array, field = tensor.array, field_of(tensor.name)
    check_datatype(field, tensor.datatype, spec)
    if array.dtype.kind == "O" and (array.ndim == 1 or spec.datatype != BYTES):
        if array.ndim != 1 or not len(array):
            raise RequestError(f"Field {field}.shape must fit {shape_text(spec.shape)}; given {list(array.shape)}.")
        return list(array)
    check_shape(field, array.shape, spec)
    if tensor.datatype != spec.datatype:
        array = widened(array, tensor.datatype, spec.datatype)
    check_finite(array, spec.datatype, tensor.name)
    return array.tolist()


def classification(array: Array, wanted: WantedOutput, classes: Sequence[str]) -> Tensor:
    """Return the likeliest classes of each row as texts `value:index[:name]`, BYTES [rows, classes].

    Source: Triton's `extension_classification.md`.
    """
    rows = np.asarray(array).reshape(len(array), -1)
    count = min(wanted.classes, rows.shape[1])
    best = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    named = len(classes) == rows.shape[1]
    texts = np.empty(best.shape, dtype=object)
    for row, places in enumerate(best.tolist()):
        for column, place in enumerate(places):
            tail = f":{classes[place]}" if named else ""
            texts[row, column] = f"{rows[row, place]:f}:{place}{tail}".encode()
    return Tensor(name=wanted.name, datatype=BYTES, array=texts)


def datatype_of(array: Array) -> str | None:
    """Return the datatype of an array as it is in memory, None if the protocol has none."""
    if array.dtype.kind in "SUO":
        return BYTES
    return DATATYPES.get(array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype)


def checked_datatype(field: str, given: object) -> str:
    """Return a datatype's name.

    Raises:
        RequestError: There is none of that name.
    """
    if not isinstance(given, str) or given not in DTYPES:
        raise RequestError(f"Field {field}.datatype must be one of {', '.join(DTYPES)}; given {short(given)}.")
    return given
