"""The metrics of a run as a Parquet file, which is sealed with the model's version.

One row for each epoch (`kind` "epoch", `step` null) and for each point of steps (`kind` "step"): `kind`, `epoch`,
`step`, `created`, and a double column for each metric, null where it was not measured. A metric of the name of one of
the first four columns has an underscore at its end.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.records.jobs import EpochMetrics, RunMetrics, StepMetrics
from lightmill.registry import OpenVersion

METRICS_FILE = "metrics.parquet"
TRACE_FILE = "trace.json.gz"
_FIXED = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("epoch", pa.int64(), nullable=False),
        pa.field("step", pa.int64()),
        pa.field("created", pa.string(), nullable=False),
    ]
)


def to_parquet(history: RunMetrics) -> bytes:
    """Return a run's metrics as the bytes of a Parquet file."""
    points = (*history.epochs, *history.steps)
    names = list(dict.fromkeys(name for point in points for name in point.metrics))
    columns = {
        "kind": ["epoch"] * len(history.epochs) + ["step"] * len(history.steps),
        "epoch": [point.epoch for point in points],
        "step": [point.step if isinstance(point, StepMetrics) else None for point in points],
        "created": [point.created for point in points],
    }
    schema = _FIXED
    for name in names:
        column = _column(name, schema.names)
        columns[column] = [point.metrics.get(name) for point in points]
        schema = schema.append(pa.field(column, pa.float64(), metadata={"metric": name}))
    table = pa.table(columns, schema=schema.with_metadata({"run": history.run}))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def from_parquet(data: bytes) -> RunMetrics:
    """Return the metrics that `to_parquet` wrote.

    Raises:
        IntegrityError: The bytes are not such a file.
    """
    try:
        table = pq.read_table(pa.BufferReader(data))
        run = (table.schema.metadata or {})[b"run"].decode()
        names = {
            field.name: field.metadata[b"metric"].decode() for field in list(table.schema)[len(_FIXED) :]
        }  # other tools may write the file anew; then it is no longer one of ours
        rows = table.to_pylist()
    except (pa.ArrowException, KeyError, TypeError) as exc:
        raise IntegrityError(f"{METRICS_FILE} is not what a run writes: {exc}.") from exc
    epochs: list[EpochMetrics] = []
    steps: list[StepMetrics] = []
    for row in rows:
        metrics = {name: row[column] for column, name in names.items() if row[column] is not None}
        if row["kind"] == "epoch":
            epochs.append(EpochMetrics(run=run, epoch=row["epoch"], metrics=metrics, created=row["created"]))
        else:
            steps.append(
                StepMetrics(run=run, step=row["step"], epoch=row["epoch"], metrics=metrics, created=row["created"])
            )
    return RunMetrics(run=run, epochs=tuple(epochs), steps=tuple(steps))


def read_history(version: OpenVersion) -> RunMetrics:
    """Return the metrics of the run that a model's version came from.

    Raises:
        NotFoundError: None were sealed with it: it was imported, or trained by an older release.
        IntegrityError: The stored bytes are not what was written.
    """
    if all(file.path != METRICS_FILE for file in version.manifest.files):
        raise NotFoundError(
            f"{version.id} has no {METRICS_FILE}: it was imported, or trained before metrics were sealed with versions."
        )
    return from_parquet(version.read_file(METRICS_FILE))


def _column(name: str, taken: list[str]) -> str:
    while name in taken:
        name += "_"
    return name
