"""Delta tables through deltalake: a part per data file, with the columns of its partition."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from lightmill.datasets.sources.file_source import Rows, Types, missing_column
from lightmill.datasets.sources.port import OnBad, Part, Source, consecutive
from lightmill.errors import NotFoundError, RequestError
from lightmill.models.exchange.extras import need
from lightmill.records.assets import SourceFile
from lightmill.records.sources import DeltaSpec

_READ_BYTES = 8 << 20


class DeltaSource(Source):
    """One version of a Delta table, the newest at the time when the source is opened unless it is named.

    Tables whose protocol deltalake cannot hand to Arrow (deletion vectors, column mapping) are refused.
    """

    def __init__(self, spec: DeltaSpec, folder: Path, columns: Types | None = None) -> None:
        self.spec = spec
        self.limits = spec.limits
        self.columns = dict(columns) if columns else None
        self._uri = spec.path if "://" in spec.path else str(folder.resolve() / spec.path)
        self.version: int = self._table(spec.version).version()

    def parts(self) -> list[Part]:
        """Return a part per data file, in name order."""
        return [
            Part(
                file=number,
                number=number,
                path=str(fragment.path),
                rows=fragment.count_rows(),
                fingerprint=f"version:{self.version}",
            )
            for number, fragment in enumerate(self._fragments())
        ]

    def schema(self) -> pa.Schema:
        """Return the declared columns, or all of the table's."""
        found = self._dataset().schema
        missing = [name for name in self.columns or () if name not in found.names]
        if missing:
            raise RequestError(missing_column(self.spec.path, missing, found.names))
        names = list(self.columns) if self.columns is not None else found.names
        return pa.schema([pa.field(name, found.field(name).type) for name in names])

    def describe(self) -> tuple[SourceFile, ...]:
        """Return the data files of the version with their digests; reads them once."""
        system = self._dataset().filesystem
        return tuple(_digested(system, str(fragment.path)) for fragment in self._fragments())

    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield a table per batch."""
        if part.fingerprint != f"version:{self.version}":
            raise RequestError(f"{self.spec.path} is another version than when this job began; run the job again.")
        fragment = next((found for found in self._fragments() if str(found.path) == part.path), None)
        if fragment is None:
            raise RequestError(f"{part.path} is no file of version {self.version}; run the job again.")
        schema, first = self.schema(), 0
        dataset_schema = self._dataset().schema
        for batch in fragment.to_batches(schema=dataset_schema, columns=schema.names, batch_size=batch_rows):
            table = pa.Table.from_batches([batch]).replace_schema_metadata(None)
            yield table, consecutive(first, len(table))
            first += len(table)

    def _fragments(self) -> list[Any]:
        return sorted(self._dataset().get_fragments(), key=lambda fragment: str(fragment.path))

    def _dataset(self) -> Any:
        return _translated(self.spec.path, lambda: self._table(self.version).to_pyarrow_dataset())

    def _table(self, version: int | None) -> Any:
        deltalake = need("deltalake", "delta", "A Delta table")
        return _translated(self.spec.path, lambda: deltalake.DeltaTable(self._uri, version=version))


def _translated(path: str, action: Any) -> Any:
    errors = need("deltalake.exceptions", "delta", "A Delta table")
    try:
        return action()
    except errors.TableNotFoundError as exc:
        raise NotFoundError(f"There is no Delta table at {path}.") from exc
    except (errors.DeltaError, OSError, ValueError) as exc:
        raise RequestError(f"The Delta table at {path} cannot be read: {str(exc).splitlines()[0][:200]}.") from exc


def _digested(system: Any, path: str) -> SourceFile:
    digest, size = hashlib.sha256(), 0
    with system.open_input_file(path) as opened:
        while data := opened.read(_READ_BYTES):
            digest.update(data)
            size += len(data)
    return SourceFile(name=path, size_bytes=size, sha256=digest.hexdigest())
