"""What shadows answered otherwise, sealed in the store: where, by how much, and the rows only behind a masking policy.

A part is one version of the run `differences.<endpoint>` with one file, `differences.parquet`: one row for each row
that differed, with columns of `lightmill_` as in `ShadowDifference`. Where the endpoint names a masking policy, the
columns of the request, of the stable answer, and of the candidate's (`candidate_<output>`) follow, masked as those
of the prediction log are. What is queued is bounded in bytes, and dropped and counted beyond.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lightmill.errors import LightmillError
from lightmill.masking import Masker
from lightmill.records.base import iso_of
from lightmill.records.references import VersionId
from lightmill.records.rollouts import ShadowDifference
from lightmill.records.traffic import DifferencesSpec, TrafficTarget
from lightmill.registry import Registry
from lightmill.serving.signals.predictions import NAME_MOST, columns_of, seal_tables
from lightmill.serving.tensors import Array, InferRequest, InferResponse
from lightmill.serving.traffic.comparison import WHOLE, Difference

DIFFERENCES_FILE = "differences.parquet"
PREFIX = "lightmill_"
CANDIDATE = "candidate_"
ABOUT = tuple(name for name in ShadowDifference.model_fields if name != "values")
WritePart = Callable[[pa.Table], None]
logger = logging.getLogger("lightmill.serving")
_TYPES = {"row": pa.int64(), "absolute": pa.float64(), "relative": pa.float64()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Differing:
    """A request that a shadow answered otherwise, as it was; its arrays must not change afterwards."""

    at: float
    request_id: str
    target: TrafficTarget
    request: InferRequest
    stable: InferResponse
    other: InferResponse
    differences: tuple[Difference, ...]

    @property
    def size_bytes(self) -> int:
        """What it holds in memory."""
        tensors = (*self.request.inputs, *self.stable.outputs, *self.other.outputs)
        return 200 * len(self.differences) + sum(tensor.array.nbytes for tensor in tensors)


class DifferenceLog:
    """Keeps differences of one replica and writes them in parts.

    Attributes:
        dropped: How many requests did not fit, or could not be written.
    """

    def __init__(
        self,
        spec: DifferencesSpec,
        version: str,
        write: WritePart,
        masker: Masker | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Log beside one stable version; without a `masker` nothing of a row is kept."""
        self._spec = spec
        self._version = version
        self._write = write
        self._masker = masker
        self._clock = clock
        self._queue: deque[Differing] = deque()
        self._bytes = self._rows = self._numbered = 0
        self._since = clock()
        self.dropped = 0

    def offer(self, differing: Differing) -> None:
        """Queue a request, if there is room."""
        if self._bytes + differing.size_bytes > self._spec.buffer_bytes:
            self.dropped += 1
            return
        self._bytes += differing.size_bytes
        self._rows += min(len(differing.differences), self._spec.rows_per_request)
        self._queue.append(differing)

    def flush(self, *, everything: bool = False) -> int:
        """Write a part if one is due; return how many requests were written. Only one thread calls this."""
        now = self._clock()
        if not self._queue:
            self._since = now
            return 0
        if not (everything or self._rows >= self._spec.part_rows or now - self._since >= self._spec.part_s):
            return 0
        self._since = now
        waiting: list[Differing] = []
        rows = size = 0
        while self._queue and rows < self._spec.part_rows:
            waiting.append(self._queue.popleft())
            rows += min(len(waiting[-1].differences), self._spec.rows_per_request)
            size += waiting[-1].size_bytes
        try:
            self._write(pa.concat_tables([self._table(found) for found in waiting], promote_options="permissive"))
        except (LightmillError, pa.ArrowInvalid) as exc:
            self.dropped += len(waiting)
            logger.error("the differences of %d requests are lost: %s", len(waiting), exc)
            return 0
        finally:
            self._bytes -= size
            self._rows -= rows
        return len(waiting)

    def _table(self, found: Differing) -> pa.Table:
        kept = found.differences[: self._spec.rows_per_request]
        about = {
            "at": [iso_of(found.at)] * len(kept),
            "request": [found.request_id] * len(kept),
            "candidate": [found.target.name] * len(kept),
            "stable_version": [self._version] * len(kept),
            "candidate_version": [str(found.target.version)] * len(kept),
            **{
                name: [getattr(one, name) for one in kept] for name in ("row", "output", "kind", "absolute", "relative")
            },
        }
        table = pa.table({PREFIX + n: pa.array(v, _TYPES.get(n, pa.string())) for n, v in about.items()})
        if self._masker is None or any(one.row == WHOLE for one in kept):
            return table
        for name, column in self._masked(self._masker, found, [one.row for one in kept]).items():
            table = table.append_column(name, column)
        return table

    def _masked(self, masker: Masker, found: Differing, rows: list[int]) -> dict[str, pa.ChunkedArray]:
        """Return the columns of request and answers in these rows; each answer is masked under its own names."""
        inputs = {tensor.name: tensor.array[rows] for tensor in found.request.inputs}
        ids = np.arange(self._numbered, self._numbered + len(rows), dtype=np.int64)
        self._numbered += len(rows)
        columns: dict[str, pa.ChunkedArray] = {}
        for answer, prefix in ((found.stable, ""), (found.other, CANDIDATE)):
            outputs: Mapping[str, Array] = {t.name: t.array[rows] for t in answer.outputs if len(t.array) > max(rows)}
            plain = columns_of(len(rows), inputs, outputs)
            masked, _ = masker.apply(plain, ids)
            for name in masked.column_names:
                if not prefix or name not in inputs:
                    columns[prefix + name] = masked.column(name)
        return columns


def seal_differences(registry: Registry, endpoint: str, version: VersionId) -> WritePart:
    """Return what seals a part as a version of the endpoint's run of differences."""
    return seal_tables(registry, differences_run(endpoint), DIFFERENCES_FILE, version)


def read_differences(registry: Registry, id: VersionId) -> list[ShadowDifference]:
    """Return the rows of a sealed part, newest first.

    Raises:
        IntegrityError: The stored bytes are not what was written.
    """
    table = pq.read_table(pa.BufferReader(registry.open(id).read_file(DIFFERENCES_FILE)))
    return [_difference(row) for row in reversed(table.to_pylist())]


def differences_run(endpoint: str) -> str:
    """Return the name of the run that holds an endpoint's differences."""
    name = f"differences.{endpoint}"
    return name if len(name) <= NAME_MOST else f"differences.{hashlib.sha256(endpoint.encode()).hexdigest()[:40]}"


def _difference(row: dict[str, Any]) -> ShadowDifference:
    about = {name: row[PREFIX + name] for name in ABOUT}
    values = {n: _shown(v) for n, v in row.items() if not n.startswith(PREFIX) and v is not None}
    return ShadowDifference(**about, values=values)


def _shown(value: Any) -> Any:
    """Return a value as JSON holds it."""
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [_shown(one) for one in value]
    return value if isinstance(value, bool | int | float | str) else str(value)
