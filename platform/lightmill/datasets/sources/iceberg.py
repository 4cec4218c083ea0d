"""Iceberg tables through pyiceberg, from their metadata file: a part per data file of one snapshot."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from lightmill.datasets.sources.file_source import Rows, Types, missing_column
from lightmill.datasets.sources.port import OnBad, Part, Source, consecutive
from lightmill.errors import RequestError
from lightmill.models.exchange.extras import need
from lightmill.records.assets import SourceFile
from lightmill.records.sources import IcebergSpec

_READ_BYTES = 8 << 20


class IcebergSource(Source):
    """One snapshot of an Iceberg table; deletes and renamed columns are applied by pyiceberg."""

    def __init__(self, spec: IcebergSpec, folder: Path, columns: Types | None = None) -> None:
        self.spec = spec
        self.limits = spec.limits
        self.columns = dict(columns) if columns else None
        self._metadata = spec.metadata if "://" in spec.metadata else str(folder.resolve() / spec.metadata)

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickles: the opened table stays in its process."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_scan", "_tasks")}

    def parts(self) -> list[Part]:
        """Return a part per data file, in name order."""
        return [
            Part(
                file=number,
                number=number,
                path=str(task.file.file_path),
                size_bytes=task.file.file_size_in_bytes,
                fingerprint=f"snapshot:{self._snapshot()}",
            )
            for number, task in enumerate(self._tasks)
        ]

    def schema(self) -> pa.Schema:
        """Return the declared columns, or all of the snapshot's."""
        found = _arrow(self._scan.projection().as_arrow())
        missing = [name for name in self.columns or () if name not in found.names]
        if missing:
            raise RequestError(missing_column(self.spec.metadata, missing, found.names))
        return pa.schema([found.field(name) for name in (self.columns or found.names)])

    def describe(self) -> tuple[SourceFile, ...]:
        """Return the data files of the snapshot with their digests; reads them once."""
        return tuple(self._digested(str(task.file.file_path)) for task in self._tasks)

    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield a table per batch."""
        if part.fingerprint != f"snapshot:{self._snapshot()}":
            raise RequestError(f"{self.spec.metadata} is another snapshot than when this job began; run the job again.")
        scan, schema, first = self._scan, self.schema(), 0
        reader = need("pyiceberg.io.pyarrow", "iceberg", "An Iceberg table").ArrowScan(
            scan.table_metadata, scan.io, scan.projection(), scan.row_filter
        )
        for batch in reader.to_record_batches([self._tasks[part.number]]):
            table = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
            yield table, consecutive(first, len(table))
            first += len(table)

    @cached_property
    def _scan(self) -> Any:
        tables = need("pyiceberg.table", "iceberg", "An Iceberg table")
        try:
            return tables.StaticTable.from_metadata(self._metadata).scan(snapshot_id=self.spec.snapshot)
        except (OSError, ValueError) as exc:
            said = (str(exc).splitlines() or [""])[0][:200]
            raise RequestError(f"The Iceberg table at {self.spec.metadata} cannot be read: {said}.") from exc

    @cached_property
    def _tasks(self) -> list[Any]:
        return sorted(self._scan.plan_files(), key=lambda task: task.file.file_path)

    def _snapshot(self) -> str:
        snapshot = self._scan.snapshot()
        return str(snapshot.snapshot_id) if snapshot is not None else "none"

    def _digested(self, path: str) -> SourceFile:
        digest, size = hashlib.sha256(), 0
        with self._scan.io.new_input(path).open() as opened:
            while data := opened.read(_READ_BYTES):
                digest.update(data)
                size += len(data)
        return SourceFile(name=path, size_bytes=size, sha256=digest.hexdigest())


def _arrow(schema: pa.Schema) -> pa.Schema:
    """Return the schema without metadata and with plain strings and bytes."""
    plain = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}
    return pa.schema([pa.field(field.name, plain.get(field.type, field.type)) for field in schema])
