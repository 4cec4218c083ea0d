"""The prediction log: a sample of rows and answers, masked by the endpoint's policy and sealed in the store.

A thread masks and writes. A part is one version of the run `predictions.<endpoint>` with one file,
`predictions.parquet`: the columns of the request and of the answer, and `lightmill_request`, `lightmill_time`,
`lightmill_version` and `lightmill_row`. What is queued is bounded in bytes; what does not fit, or cannot be written, is
dropped and counted, since requests must not wait for a store.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lightmill.errors import LightmillError, RequestError
from lightmill.masking import Masker
from lightmill.records.assets import RunCard
from lightmill.records.base import iso_of
from lightmill.records.logs import PredictionLogSpec
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.signature import Signature
from lightmill.registry import Content, Registry

PREDICTIONS_FILE = "predictions.parquet"
PREFIX = "lightmill_"
NAME_MOST = 64
Columns = Mapping[str, Any]
"""Values by name: an array [rows, ...], or a list of one value a row."""
WritePart = Callable[[pa.Table], None]
logger = logging.getLogger("lightmill.serving")


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """A request's rows and answers, as they were; nothing is copied until a part is made."""

    at: float
    request_id: str
    rows: int
    inputs: Columns
    outputs: Columns
    size_bytes: int


class PredictionLog:
    """Samples requests of one replica and writes them in parts.

    Attributes:
        dropped: How many rows did not fit, or could not be written.
    """

    def __init__(
        self,
        spec: PredictionLogSpec,
        version: str,
        masker: Masker,
        write: WritePart,
        *,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Log for one version of a model."""
        self._spec = spec
        self._version = version
        self._masker = masker
        self._write = write
        self._chance = chance
        self._clock = clock
        self._queue: deque[Predicted] = deque()
        self._bytes = self._rows = 0
        self._numbered = 0
        self._since = clock()
        self.dropped = 0

    def wants(self) -> bool:
        """Whether the next request is in the sample."""
        return self._chance() < self._spec.sample

    def offer(self, predicted: Predicted) -> None:
        """Queue a request of the sample, if there is room. Its arrays must not change afterwards."""
        if self._bytes + predicted.size_bytes > self._spec.buffer_bytes:
            self.dropped += predicted.rows
            return
        self._bytes += predicted.size_bytes
        self._rows += predicted.rows
        self._queue.append(predicted)

    def flush(self, *, everything: bool = False) -> int:
        """Write a part if one is due; return how many rows were written. Only one thread calls this."""
        now = self._clock()
        due = self._rows >= self._spec.part_rows or now - self._since >= self._spec.part_s
        if not self._queue:
            self._since = now
            return 0
        if not (due or everything):
            return 0
        self._since = now
        waiting: list[Predicted] = []
        rows = size = 0
        while self._queue and rows < self._spec.part_rows:
            waiting.append(self._queue.popleft())
            rows += waiting[-1].rows
            size += waiting[-1].size_bytes
        try:
            self._write(self._masked(waiting))
        except LightmillError as exc:
            self.dropped += rows
            logger.error("%d rows of the prediction log are lost: %s", rows, exc)
            rows = 0
        finally:
            self._bytes -= size
            self._rows -= sum(found.rows for found in waiting)
        return rows

    def _masked(self, waiting: list[Predicted]) -> pa.Table:
        table = pa.concat_tables([_table(found) for found in waiting], promote_options="permissive")
        ids = np.arange(self._numbered, self._numbered + len(table), dtype=np.int64)
        self._numbered += len(table)
        masked, _ = self._masker.apply(table, ids)
        about = {
            "request": pa.array([found.request_id for found in waiting for _ in range(found.rows)], pa.string()),
            "time": pa.array([iso_of(found.at) for found in waiting for _ in range(found.rows)], pa.string()),
            "version": pa.array([self._version] * len(table), pa.string()),
            "row": pa.array([row for found in waiting for row in range(found.rows)], pa.int64()),
        }
        for name, values in about.items():
            masked = masked.append_column(f"{PREFIX}{name}", values)
        return masked


def check_policy(masker: Masker, signature: Signature) -> None:
    """See that a policy can mask what an endpoint of this signature is sent.

    Raises:
        RequestError: A rule names a column that there is not, or whose type its action cannot treat.
    """
    kinds = {"BYTES": pa.string(), "BOOL": pa.bool_(), "FP32": pa.float32(), "FP64": pa.float64(), "FP16": pa.float16()}
    fields = [
        (spec.name, kinds.get(spec.datatype, pa.int64()), tuple(spec.shape))
        for spec in (*signature.inputs, *signature.outputs)
    ]
    names: dict[str, pa.DataType] = {}
    for name, kind, shape in fields:
        whole = kind if len(shape) <= 1 and all(size in (1, -1) for size in shape) else pa.list_(kind)
        names[name if name not in names else f"output_{name}"] = whole
    masker.schema(pa.schema(list(names.items())))


def seal_part(registry: Registry, endpoint: str, version: VersionId) -> WritePart:
    """Return what seals a part as a version of the endpoint's run of predictions."""
    return seal_tables(registry, run_name(endpoint), PREDICTIONS_FILE, version)


def seal_tables(registry: Registry, run: str, file: str, version: VersionId) -> WritePart:
    """Return what seals a table as a file of a new version of a run that tells of a model's version."""

    def write(table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        draft = registry.begin(AssetKind.RUN, run)
        sealed = draft.seal_files({file: sink.getvalue().to_pybytes()})
        card = RunCard(model=str(version), epoch=0, metrics={"rows": float(len(table))})
        registry.commit(draft, Content(files=sealed.files, blobs=sealed.blobs, run=card))

    return write


def read_part(registry: Registry, id: VersionId) -> pa.Table:
    """Return the rows of a sealed part.

    Raises:
        IntegrityError: The stored bytes are not what was written.
    """
    return pq.read_table(pa.BufferReader(registry.open(id).read_file(PREDICTIONS_FILE)))


def run_name(endpoint: str) -> str:
    """Return the name of the run that holds an endpoint's predictions."""
    name = f"predictions.{endpoint}"
    return name if len(name) <= NAME_MOST else f"predictions.{hashlib.sha256(endpoint.encode()).hexdigest()[:40]}"


def columns_of(rows: int, inputs: Columns, outputs: Columns) -> pa.Table:
    """Return the columns of a request and its answer; an output named as an input is has `output_` before it."""
    columns: dict[str, pa.Array] = {}
    for name, values in inputs.items():
        columns[name] = _array(values, rows, name)
    for name, values in outputs.items():
        columns[f"output_{name}" if name in columns else name] = _array(values, rows, name)
    return pa.table(columns)


def _table(found: Predicted) -> pa.Table:
    return columns_of(found.rows, found.inputs, found.outputs)


def _array(values: Any, rows: int, name: str) -> pa.Array:
    if len(values) != rows:
        raise RequestError(f"{name} has {len(values)} values for {rows} rows of the prediction log.")
    if isinstance(values, np.ndarray) and values.ndim > 1:
        flat = values.reshape(rows, -1)
        ends = np.arange(0, flat.size + 1, max(1, flat.shape[1]), dtype=np.int32)[: rows + 1]
        return pa.ListArray.from_arrays(pa.array(ends), _column(flat.reshape(-1), name))
    return _column(values, name)


def _column(values: Any, name: str) -> pa.Array:
    """Return values as a column. Bytes become text, whatever holds them: no detector reads bytes."""
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        return pa.array(values)
    try:
        return pa.array([value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as exc:
        raise RequestError(f"{name} has values of several types, which no column of the prediction log holds.") from exc
