"""Base of the sources that are files: found once, divided, and conformed to one schema."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.datasets.sources.conversion import cast_values, check_columns, too_large
from lightmill.datasets.sources.files import FileRef, Place, digest_files, find_files
from lightmill.datasets.sources.port import BadRow, OnBad, Part, Source
from lightmill.datasets.sources.problems import reading_errors
from lightmill.errors import RequestError
from lightmill.records.assets import SourceFile
from lightmill.records.sources import FilesSpec

SpecT = TypeVar("SpecT", bound=FilesSpec)
Types = Mapping[str, pa.DataType]
Rows = npt.NDArray[np.int64]


class FileSource(Source, Generic[SpecT]):
    """Files of one format. A subclass says how a file is divided, what columns it has and how a part is read."""

    suffixes: Sequence[str] = ()

    def __init__(self, spec: SpecT, folder: Path, columns: Types | None = None) -> None:
        self.spec = spec
        self.limits = spec.limits
        self.columns = dict(columns) if columns else None
        self.files: tuple[tuple[Place, FileRef], ...] = find_files(spec, folder, self.suffixes)

    def parts(self) -> list[Part]:
        """Return the parts: files in order, each divided if its format allows; see `Source.parts`."""
        return list(self._parts)

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        found: list[Part] = []
        for number, (place, file) in enumerate(self.files):
            parts = [self._whole(number, file)]
            with reading_errors(file.path):  # what cannot be divided is one part; reading it says what is wrong
                parts = self._divide(number, place, file)
            found += [part.model_copy(update={"number": len(found) + n}) for n, part in enumerate(parts)]
        return tuple(found)

    def schema(self) -> pa.Schema:
        """Return the columns: the declared ones, or those of the first file that has any; see `Source.schema`."""
        return self._schema

    @cached_property
    def _schema(self) -> pa.Schema:
        reasons: list[str] = []
        for place, file in self.files:
            with reading_errors(file.path) as problem:
                found = self._file_schema(place, file)
                check_columns(found.names, self.limits.columns, file.path)
                return self.declared(found, file.path)
            reasons += [f"{file.path}: {problem[0]}"]
        raise RequestError(f"No file of the source can be read; the first says: {reasons[0]}.")

    def describe(self) -> tuple[SourceFile, ...]:
        """Return the files with their digests; reads every byte once."""
        return digest_files(self.files)

    def entries(self) -> int:
        """Return how many files there are."""
        return len(self.files)

    def declared(self, found: pa.Schema, path: str) -> pa.Schema:
        """Return the columns to give of a file that has `found`.

        Raises:
            RequestError: A declared column is not there.
        """
        if self.columns is None:
            return pa.schema([pa.field(field.name, plain_type(field.type)) for field in found])
        missing = [name for name in self.columns if name not in found.names]
        if missing:
            raise RequestError(missing_column(path, missing, found.names))
        return pa.schema(list(self.columns.items()))

    def conform(self, table: pa.Table, rows: Rows, part: Part, on_bad: OnBad) -> tuple[pa.Table, Rows]:
        """Return a table with the source's columns; rows whose values do not convert go to `on_bad`.

        Raises:
            RequestError: A column is missing, comes on top, or has another type that was not declared.
        """
        table, rows = self._without_large_cells(plain(table), rows, part, on_bad)
        schema = self.schema()
        if table.schema.equals(schema):
            return table, rows
        self._check_same(table.schema, schema, part)
        bad = np.zeros(len(rows), dtype=bool)
        columns: list[pa.Array] = []
        for field in schema:
            try:
                values, wrong = cast_values(combined(table.column(field.name)), field.type)
            except RequestError as exc:
                raise RequestError(f"{part.path}, column {field.name!r}: {exc.message}") from exc
            for row in np.flatnonzero(wrong & ~bad):
                on_bad(type_breach(part, int(rows[row]), field, str(table.slice(row, 1).to_pylist()[0])))
            bad |= wrong
            columns.append(values)
        kept = pa.Table.from_arrays(columns, schema=schema)
        return (kept.filter(pa.array(~bad)), rows[~bad]) if bad.any() else (kept, rows)

    def _check_same(self, found: pa.Schema, schema: pa.Schema, part: Part) -> None:
        check_columns(found.names, self.limits.columns, part.path)
        missing = [name for name in schema.names if name not in found.names]
        if missing:
            raise RequestError(missing_column(part.path, missing, found.names))
        if self.columns is not None:
            return
        more = [name for name in found.names if name not in schema.names]
        if more:
            raise RequestError(
                f"{part.path} has a column {more[0]!r} that the first file has not. Declare the columns to read, or "
                "give files with the same ones."
            )
        for field in schema:
            if found.field(field.name).type != field.type:
                raise RequestError(
                    f"{part.path}: column {field.name!r} is {found.field(field.name).type}, but {field.type} in the "
                    "first file. Declare its dtype to convert it."
                )

    def _without_large_cells(self, table: pa.Table, rows: Rows, part: Part, on_bad: OnBad) -> tuple[pa.Table, Rows]:
        while (found := too_large(table, self.limits.cell_bytes)) is not None:
            column, over = found
            reason = f"a cell has more bytes than limits.cell_bytes of {self.limits.cell_bytes}"
            for row in rows[over]:
                on_bad(BadRow(file=part.file, path=part.path, row=int(row), reason=reason, column=column))
            table, rows = table.filter(pa.array(~over)), rows[~over]
        return table, rows

    def place_of(self, part: Part) -> tuple[Place, FileRef]:
        """Return the file of a part.

        Raises:
            RequestError: The file is another one than when the part was made.
        """
        place, file = self.files[part.file]
        if part.fingerprint != file.fingerprint:
            raise RequestError(f"{part.path} has changed since this job began; run the job again.")
        return place, file

    def _whole(self, number: int, file: FileRef) -> Part:
        return Part(file=number, number=0, path=file.path, size_bytes=file.size_bytes, fingerprint=file.fingerprint)

    def _divide(self, number: int, place: Place, file: FileRef) -> list[Part]:
        """Return the parts of one file; their numbers are set later."""
        return [self._whole(number, file)]

    @abstractmethod
    def _file_schema(self, place: Place, file: FileRef) -> pa.Schema:
        """Return the columns that one file has."""

    @abstractmethod
    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield rows with their numbers; see `Source.tables`."""


def missing_column(path: str, missing: Sequence[str], found: Sequence[str]) -> str:
    """Return the message for columns that a file lacks."""
    more = f" (nor {len(missing) - 1} other declared ones)" if len(missing) > 1 else ""
    shown = ", ".join(name[:100] for name in found[:8]) or "none"
    return (
        f"{path} has no column {missing[0]!r}{more}; it has {shown}{', ...' if len(found) > 8 else ''}. "
        "Correct `columns` in the specification."
    )


def type_breach(part: Part, row: int, field: pa.Field, text: str) -> BadRow:
    """Return the bad row for a value that is not of its column's type."""
    return BadRow(
        file=part.file,
        path=part.path,
        row=row,
        kind="type",
        reason=f"the value is no {field.type}",
        text=text[: 64 << 10],
        column=field.name,
    )


def combined(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], type=column.type)


def plain(table: pa.Table) -> pa.Table:
    """Return the table without dictionary columns, which files need not share, and without metadata."""
    if not any(pa.types.is_dictionary(kind) for kind in table.schema.types) and all(f.nullable for f in table.schema):
        return table.replace_schema_metadata(None) if table.schema.metadata else table
    columns = [column.cast(plain_type(column.type)) for column in table.columns]
    return pa.Table.from_arrays(columns, names=table.column_names)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a dictionary's values, any other type as it is."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def pieces(whole: Part, found: Iterable[tuple[int, int, int, int]]) -> list[Part]:
    """Return a part for each (begin, end, first row, rows) that `streams.divide` has found in a file."""
    return [
        whole.model_copy(
            update={"start": begin, "end": end, "first_row": first, "rows": rows, "size_bytes": end - begin}
        )
        for begin, end, first, rows in found
    ]
