"""NumPy's own files as bodies: `.npy` for a model of one input, `.npz` by the names of inputs and outputs.

Headers are read before anything is allocated, and nothing is ever unpickled. Source: NEP 1, `numpy.lib.format`.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from typing import Any

import numpy as np

from lightmill.errors import NotAcceptableError, RequestError, TooLargeError
from lightmill.serving.fitting import datatype_of, field_of
from lightmill.serving.protocols.forms import Form, Reply, content_type
from lightmill.serving.tensors import (
    BF16,
    BYTES,
    DTYPES,
    Array,
    Body,
    InferRequest,
    InferResponse,
    ModelDescription,
    Tensor,
    short,
)

NPY = "application/x-npy"
NPZ = "application/x-npz"
MAX_BYTES = 64 << 20
_HEADER_BYTES = 4096
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def parse(body: Body, model: ModelDescription, form: Form) -> InferRequest:
    """Read one array of a model's only input.

    Raises:
        RequestError: It is no such file, holds objects, or has more or fewer bytes than its header says.
    """
    first, *others = specs = model.signature.inputs
    if others:
        names = ", ".join(spec.name for spec in specs)
        raise RequestError(f"A .npy body holds one input, but the model takes {names}; send a .npz body ({NPZ}).")
    return InferRequest(inputs=(_tensor(memoryview(body), first.name, model),), outputs=form.outputs)


def parse_npz(body: Body, model: ModelDescription, form: Form) -> InferRequest:
    """Read arrays by the names of inputs.

    Raises:
        RequestError: It is no zip file of arrays, or a member is no such file.
        TooLargeError: Its members are larger than is taken.
    """
    names = {spec.name: spec for spec in model.signature.inputs}
    found = []
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
            declared = sum(member.file_size for member in members)
            if declared > MAX_BYTES:
                raise TooLargeError(
                    f"The arrays in the .npz body have {declared} bytes; at most {MAX_BYTES} are taken."
                )
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name not in names:
                    raise RequestError(f"The .npz body has an array {short(name)}; the model takes {', '.join(names)}.")
                with archive.open(member) as file:
                    # One more than declared tells a member that says too little.
                    data = file.read(member.file_size + 1)
                found.append(_tensor(memoryview(data), name, model))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError, EOFError, zlib.error) as exc:
        raise RequestError(f"The .npz body is no valid zip file of arrays: {exc}.") from exc
    return InferRequest(inputs=tuple(found), outputs=form.outputs)


def _tensor(data: memoryview, name: str, model: ModelDescription) -> Tensor:
    array = read(data, field_of(name))
    spec = next(spec for spec in model.signature.inputs if spec.name == name)
    datatype = datatype_of(array)
    if datatype is None:
        raise RequestError(f"Field {field_of(name)}.datatype must be {spec.datatype!r}; given dtype {array.dtype}.")
    if spec.datatype == BF16 and datatype == "UINT16":
        datatype = BF16
    if datatype == BYTES:
        array = array.astype(object)
    return Tensor(name=name, datatype=datatype, array=array.astype(DTYPES[datatype], copy=False))


def read(data: memoryview, field: str) -> Array:
    """Return the array of a `.npy` file, a view of it where it is in order.

    Raises:
        RequestError: It is no such file, holds objects, or has more or fewer bytes than its header says.
    """
    head = io.BytesIO(bytes(data[: _HEADER_BYTES + 16]))
    try:
        version = np.lib.format.read_magic(head)
        if version not in _READERS:
            raise ValueError(f"version {version} of the format is not read here")
        shape, fortran, dtype = _READERS[version](head, max_header_size=_HEADER_BYTES)
    except Exception as exc:  # the header is a Python literal, whose parsers raise what they like
        raise RequestError(
            f"Field {field} is no .npy file: {str(exc).splitlines()[0] if str(exc) else 'damaged'}."
        ) from exc
    if dtype.hasobject or dtype.fields or dtype.subdtype or dtype.kind not in "biufSU" or not dtype.itemsize:
        raise RequestError(
            f"Field {field} has dtype {short(str(dtype))}; send numbers, booleans or texts, never objects."
        )
    content = data[head.tell() :]
    expected = math.prod(shape) * dtype.itemsize
    if len(content) != expected or any(size < 0 for size in shape):
        raise RequestError(
            f"Field {field} has {len(content)} bytes of data, but {dtype} of shape {list(shape)} needs {expected}."
        )
    array: Any = np.frombuffer(content, dtype=dtype) if expected else np.empty(0, dtype=dtype)
    if dtype.kind == "b" and expected and int(array.view(np.uint8).max()) > 1:
        raise RequestError(f"Field {field} has a byte other than 0 and 1 in data of BOOL.")
    array = array.reshape(shape, order="F" if fortran else "C")
    try:
        return np.array(array, order="C") if fortran or not array.flags.aligned else array
    except ValueError as exc:  # code points beyond Unicode
        raise RequestError(f"Field {field} holds a value that is none of {dtype}.") from exc


def write(response: InferResponse, request: InferRequest) -> Reply:
    """Return the only output as a `.npy` file.

    Raises:
        NotAcceptableError: There are several outputs.
    """
    tensor, *others = response.outputs
    if others:
        names = ", ".join(tensor.name for tensor in response.outputs)
        raise NotAcceptableError(
            f"A .npy answer holds one output, but there are {names}; choose one by '?output=...', or accept {NPZ}."
        )
    return Reply(body=_file(tensor), headers=content_type(NPY))


def write_npz(response: InferResponse, request: InferRequest) -> Reply:
    """Return all outputs as a `.npz` file, not compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for tensor in response.outputs:
            archive.writestr(f"{tensor.name}.npy", _file(tensor))
    return Reply(body=buffer.getvalue(), headers=content_type(NPZ))


def _file(tensor: Tensor) -> bytes:
    array = tensor.array
    if tensor.datatype == BYTES:
        array = _fixed(array)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _fixed(array: Array) -> Array:
    """Return texts as UTF-8 of one length, which NumPy fills with zeros."""
    values = [value.encode() if isinstance(value, str) else value for value in array.reshape(-1).tolist()]
    width = max([1, *map(len, values)])
    return np.array(values, dtype=f"S{width}").reshape(array.shape)
