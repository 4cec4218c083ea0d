"""Arrow IPC streams as bodies: a column for each input, a row for each row of the batch, and the same for outputs.

A tensor of more dimensions is a column of fixed-size lists or of fixed-shape tensors; lists of one length are taken as
well. The schema's metadata may hold `id`, and JSON under `outputs` and `parameters` as the Open Inference Protocol has
them. Source: Apache Arrow, columnar format, IPC streaming format.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from lightmill.errors import RequestError, TooLargeError, UnsupportedMediaError
from lightmill.records.signature import TensorSpec
from lightmill.serving.fitting import datatype_of, field_of
from lightmill.serving.protocols import oip
from lightmill.serving.protocols.forms import Form, Reply, content_type
from lightmill.serving.protocols.values import load, rows_of
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
    order_of,
    short,
)

ARROW = "application/vnd.apache.arrow.stream"
MAX_BYTES = 64 << 20
MAX_BATCHES = 4096
MAX_ROWS = 1 << 20
_DICTIONARY_BATCH = 2


def parse(body: Body, model: ModelDescription, form: Form) -> InferRequest:
    """Read a stream of record batches.

    Raises:
        RequestError: It is no such stream, or a column is no tensor of its input.
        TooLargeError: What its buffers expand to is larger than is taken.
    """
    table = _table(body)
    metadata = {key.decode("utf-8", "replace"): value for key, value in (table.schema.metadata or {}).items()}
    specs = {spec.name: spec for spec in model.signature.inputs}
    found = []
    for name, column in zip(table.schema.names, table.columns, strict=True):
        spec = specs.get(name)
        if spec is None or table.schema.names.count(name) > 1:
            raise RequestError(
                f"Field 'inputs': the columns must be {', '.join(specs)}, each once; given {short(name)}."
            )
        found.append(_tensor(column, spec, model))
    parameters = oip.read_parameters(load(metadata["parameters"]), "parameters") if "parameters" in metadata else {}
    priority, timeout_s = order_of(parameters)
    outputs = oip.read_outputs(load(metadata["outputs"]), model) if "outputs" in metadata else form.outputs
    return InferRequest(
        inputs=tuple(found),
        outputs=outputs,
        id=metadata["id"].decode("utf-8", "replace") if "id" in metadata else None,
        parameters=parameters,
        priority=priority,
        timeout_s=timeout_s,
    )


def _table(body: Body) -> pa.Table:
    batches, size, rows = [], 0, 0
    try:
        _refuse_compressed(body)
        with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
            for batch in reader:
                batch.validate(full=True)
                batches.append(batch)
                size, rows = size + batch.nbytes, rows + batch.num_rows
                if size > MAX_BYTES or len(batches) > MAX_BATCHES or rows > MAX_ROWS:
                    raise TooLargeError(
                        f"The Arrow stream has more than {MAX_BYTES} bytes, {MAX_BATCHES} batches or {MAX_ROWS} rows; "
                        "send less at once."
                    )
            table = pa.Table.from_batches(batches, reader.schema)
    except (pa.ArrowException, OSError, ValueError, KeyError, UnicodeDecodeError) as exc:
        raise RequestError(f"The body is no valid Arrow IPC stream: {str(exc).splitlines()[0][:200]}.") from exc
    if not table.num_rows:
        raise RequestError("The Arrow stream has no row; send at least one row.")
    return table


def _refuse_compressed(body: Body) -> None:
    """Refuse buffers that expand when they are read: nothing bounds to what.

    Raises:
        UnsupportedMediaError: A message of the stream says that its buffers are compressed.
    """
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(body)):
        if message.type in ("record batch", "dictionary") and _is_compressed(message.metadata.to_pybytes()):
            raise UnsupportedMediaError(
                "The Arrow stream has compressed buffers; write it without; Content-Encoding: gzip is taken."
            )


def _is_compressed(metadata: bytes) -> bool:
    """Return whether a message's FlatBuffer has `compression`; Arrow has verified it (format/Message.fbs)."""
    message = struct.unpack_from("<I", metadata)[0]
    header = _field(metadata, message, 2)
    if metadata[_field(metadata, message, 1)] == _DICTIONARY_BATCH:
        header = _field(metadata, header + struct.unpack_from("<I", metadata, header)[0], 1)
    return bool(_field(metadata, header + struct.unpack_from("<I", metadata, header)[0], 3))


def _field(metadata: bytes, table: int, number: int) -> int:
    """Return where a table's field lies, 0 if it has none."""
    entries = table - struct.unpack_from("<i", metadata, table)[0]
    place = 4 + 2 * number
    if place >= struct.unpack_from("<H", metadata, entries)[0]:
        return 0
    offset = struct.unpack_from("<H", metadata, entries + place)[0]
    return table + offset if offset else 0


def _tensor(column: pa.ChunkedArray, spec: TensorSpec, model: ModelDescription) -> Tensor:
    field = field_of(spec.name)
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # chunks of no rows at all, or too large for one
        array = pa.concat_arrays(array.chunks)
    if isinstance(array, pa.DictionaryArray):
        array = _undone(array, field)
    shape: tuple[int, ...] = (len(array),)
    if isinstance(array, pa.FixedShapeTensorArray):
        shape = (len(array), *array.type.shape)
        if array.type.permutation is not None and list(array.type.permutation) != sorted(array.type.permutation):
            raise RequestError(f"Field {field} is a tensor of permuted dimensions; send it row-major.")
        array = array.storage
    values, inner, complete = _flat(array, field, lists=model.by_column)
    datatype = _datatype(values, spec, field)
    if not complete or datatype == BYTES:
        return Tensor(name=spec.name, datatype=datatype, array=_objects(array, shape, model, field, complete=complete))
    numbers = values.to_numpy(zero_copy_only=False)
    found = numbers.astype(DTYPES[datatype], copy=False).reshape(shape if len(shape) > 1 else (*shape, *inner))
    return Tensor(name=spec.name, datatype=datatype, array=_fitting(found, spec))


_compute: Any = pyarrow.compute  # its functions are made at import, unseen by type checkers


def _undone(array: pa.DictionaryArray, field: str) -> pa.Array:
    """Return the values that a dictionary's places mean, if they are not many times what was sent."""
    kind = array.dictionary.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        size = _compute.sum(_compute.binary_length(array.dictionary).take(array.indices)).as_py() or 0
    elif pa.types.is_primitive(kind):
        size = len(array) * 8
    else:
        raise RequestError(f"Field {field} is a dictionary of {kind}; send the values themselves.")
    if size > MAX_BYTES:
        raise TooLargeError(f"Field {field} has {size} bytes without its dictionary; at most {MAX_BYTES} are taken.")
    return array.dictionary_decode()


def _flat(array: pa.Array, field: str, *, lists: bool) -> tuple[pa.Array, tuple[int, ...], bool]:
    """Return the innermost values, the shape of a row, and whether all values are there in rows of one shape."""
    shape: tuple[int, ...] = ()
    complete = True
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        rows, complete = len(array), complete and not array.null_count
        values = array.flatten()
        sizes = (
            {array.type.list_size}
            if pa.types.is_fixed_size_list(array.type)
            else set(array.value_lengths().to_pylist())
        )
        if len(sizes - {None}) > 1:
            if not lists:
                raise RequestError(f"Field {field}.data is ragged; every row must have the same length.")
            complete = False
        shape = (*shape, next(iter(sizes)) or 0) if rows else shape
        array = values
    return array, shape, complete and not array.null_count


def _datatype(values: pa.Array, spec: TensorSpec, field: str) -> str:
    kind = values.type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if any(test(kind) for test in texts) or pa.types.is_temporal(kind):
        return BYTES
    if pa.types.is_null(kind) and len(values) <= MAX_ROWS:
        return spec.datatype
    if pa.types.is_boolean(kind):
        return "BOOL"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        found = datatype_of(np.empty(0, dtype=kind.to_pandas_dtype()))
        if found is not None:
            return BF16 if (found, spec.datatype) == ("UINT16", BF16) else found
    raise RequestError(f"Field {field}.datatype must be {spec.datatype!r}; given Arrow's {short(str(kind))[1:-1]}.")


def _objects(array: pa.Array, shape: tuple[int, ...], model: ModelDescription, field: str, *, complete: bool) -> Array:
    values = array.to_pylist()
    if model.by_column:
        return rows_of(values)
    if not complete:
        raise RequestError(f"Field {field}.data has missing values, which this model does not take.")
    found = np.array(values, dtype=object)
    return found.reshape(shape) if len(shape) > 1 else found


def _fitting(array: Array, spec: TensorSpec) -> Array:
    """Return rows of a flat list in the shape that the signature fixes, if they have as many values."""
    rest = spec.shape[1:]
    if array.ndim == 2 and len(rest) > 1 and -1 not in rest and int(np.prod(rest)) == array.shape[1]:
        return array.reshape(len(array), *rest)
    return array


def write(response: InferResponse, request: InferRequest) -> Reply:
    """Return the outputs as a stream of one record batch."""
    columns = [_column(tensor) for tensor in response.outputs]
    metadata = {"model_name": response.model, "model_version": response.version}
    if response.id is not None:
        metadata["id"] = response.id
    schema = pa.schema(
        [pa.field(tensor.name, column.type) for tensor, column in zip(response.outputs, columns, strict=True)],
        metadata=metadata,
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return Reply(body=sink.getvalue().to_pybytes(), headers=content_type(ARROW))


def _column(tensor: Tensor) -> Any:
    array = np.ascontiguousarray(tensor.array)
    if tensor.datatype == BYTES:
        flat = [value.encode() if isinstance(value, str) else value for value in array.reshape(-1).tolist()]
        values: pa.Array = pa.array(flat, type=pa.binary())
    else:
        values = pa.array(array.reshape(-1))
    if array.ndim == 1:
        return values
    if array.ndim == 2 or tensor.datatype == BYTES:
        return pa.FixedSizeListArray.from_arrays(values, int(np.prod(array.shape[1:])))
    return pa.FixedShapeTensorArray.from_numpy_ndarray(array)
