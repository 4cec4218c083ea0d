"""Rows of a database, in ranges of an integer key. A part is a range; rows are numbered in it in the key's order.

The ranges are of equal width between the least and the greatest key, so that two reads of an unchanged table give
the same rows the same ids. Shards are read in transactions of their own: do not change the table meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from lightmill.datasets.sources.conversion import check_columns, too_large
from lightmill.datasets.sources.file_source import Rows, Types, missing_column, type_breach
from lightmill.datasets.sources.port import BATCH_ROWS, BadRow, OnBad, Part, Source, consecutive
from lightmill.errors import RequestError, UnavailableError
from lightmill.records.assets import RowOrigin, SourceFile
from lightmill.records.sources import SqlSpec

_SAMPLE_ROWS = 1000
_SELECTED = "lightmill_source"
_ARROW: tuple[tuple[type[sa.types.TypeEngine[Any]], pa.DataType], ...] = (
    (sa.Boolean, pa.bool_()),
    (sa.Integer, pa.int64()),
    (sa.Float, pa.float64()),
    (sa.DateTime, pa.timestamp("us")),
    (sa.Date, pa.date32()),
    (sa.LargeBinary, pa.binary()),
    (sa.String, pa.string()),
    (sa.Uuid, pa.string()),
    (sa.JSON, pa.string()),
)


class SqlSource(Source):
    """A table or query that SQLAlchemy reads. A URL with a password stays in the environment."""

    def __init__(self, spec: SqlSpec, folder: Path, columns: Types | None = None) -> None:
        self.spec = spec
        self.limits = spec.limits
        self.columns = dict(columns) if columns else None
        self._folder = str(folder.resolve())

    @property
    def name(self) -> str:
        """What is read, for people; holds no URL."""
        return f"table {self.spec.table}" if self.spec.table is not None else "query"

    def parts(self) -> list[Part]:
        """Return a part per key range.

        Raises:
            RequestError: The key is no integer, has a null, or comes twice.
            UnavailableError: The database does not answer.
        """
        least, greatest, rows = self._range
        if least is None or greatest is None:
            return [Part(file=0, number=0, path=self.name, start=0, end=0, rows=0, fingerprint=self._fingerprint)]
        width = -(-(greatest - least + 1) // self.spec.shards)
        starts = range(least, greatest + 1, width)
        return [
            Part(
                file=number,
                number=number,
                path=f"{self.name}, {self.spec.key} from {start}",
                start=start,
                end=start + width,
                rows=rows if len(starts) == 1 else None,
                fingerprint=self._fingerprint,
            )
            for number, start in enumerate(starts)
        ]

    def schema(self) -> pa.Schema:
        """Return the declared columns, or the table's, or those that the first 1000 rows of a query show."""
        return self._schema

    def describe(self) -> tuple[SourceFile, ...]:
        """Return one entry; its digest is of all rows as an Arrow stream, in order, and its size of that stream."""
        sink = _Digest()
        with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), self.schema()) as writer:
            for part in self.parts():
                for chunk in self.read(part, batch_rows=BATCH_ROWS, on_bad=lambda bad: sink.note(bad)):
                    writer.write_table(chunk.table.combine_chunks())
        return (SourceFile(name=f"sql: {self.name}", size_bytes=sink.size, sha256=sink.digest.hexdigest()),)

    def origins(self) -> tuple[RowOrigin, ...]:
        """Return that every position is a key range of the one table or query."""
        return tuple(RowOrigin(first=part.file, source=0, part=part.path) for part in self.parts())

    def entries(self) -> int:
        """Return 1: the table or query is one entry."""
        return 1

    def identity(self) -> str | None:
        """Return nothing: rows of a table change without a sign."""
        return None

    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield tables of at most `batch_rows` rows; the driver streams them."""
        if part.fingerprint != self._fingerprint:
            raise RequestError(f"{self.name} is another one than when this job began; run the job again.")
        with self._connection() as connection:
            selected, key = self._selected(connection, list(self.schema().names))
            within = selected.where(key >= part.start, key < part.end).order_by(key)
            streamed = connection.execution_options(stream_results=True, max_row_buffer=batch_rows).execute(within)
            first = 0
            while found := streamed.fetchmany(batch_rows):
                yield self._table(found, consecutive(first, len(found)), part, on_bad)
                first += len(found)

    @cached_property
    def _fingerprint(self) -> str:
        said = self.spec.model_dump_json().encode()
        return hashlib.sha256(said).hexdigest()

    @cached_property
    def _range(self) -> tuple[int | None, int | None, int]:
        with self._connection() as connection:
            selected, key = self._selected(connection, [self.spec.key])
            inner = selected.subquery("lightmill_keys")
            column = inner.columns[0] if len(inner.columns) else sa.column(key.name)
            asked = sa.select(
                sa.func.count(),
                sa.func.count(column),
                sa.func.count(column.distinct()),
                sa.func.min(column),
                sa.func.max(column),
            ).select_from(inner)
            rows, present, distinct, least, greatest = connection.execute(asked).one()
        if present < rows:
            raise RequestError(
                f"{rows - present} rows of {self.name} have no {self.spec.key!r}; key must never be null."
            )
        if distinct < rows:
            raise RequestError(
                f"{self.name} has {rows - distinct} repeated values of {self.spec.key!r}; key must be unique."
            )
        if rows and not (isinstance(least, int) and isinstance(greatest, int)):
            raise RequestError(f"{self.spec.key!r} of {self.name} is {type(least).__name__}; key must be an integer.")
        return least, greatest, rows

    @cached_property
    def _schema(self) -> pa.Schema:
        with self._connection() as connection:
            found = self._table_schema(connection) if self.spec.table is not None else self._query_schema(connection)
        check_columns(found.names, self.limits.columns, self.name)
        if self.columns is None:
            return found
        missing = [name for name in self.columns if name not in found.names]
        if missing:
            raise RequestError(missing_column(self.name, missing, found.names))
        return pa.schema(list(self.columns.items()))

    def _table_schema(self, connection: sa.Connection) -> pa.Schema:
        columns = self._reflected(connection).columns
        declared = self.columns or {}
        return pa.schema([(c.name, declared.get(c.name) or _arrow_type(c, self.name)) for c in columns])

    def _query_schema(self, connection: sa.Connection) -> pa.Schema:
        selected = sa.select(sa.text("*")).select_from(sa.text(f"({self.spec.query}) AS {_SELECTED}"))
        result = connection.execute(selected.limit(_SAMPLE_ROWS))
        names, rows = list(result.keys()), result.fetchall()
        check_columns(names, self.limits.columns, self.name)
        declared = self.columns or {}
        fields = []
        for at, name in enumerate(names):
            kind = declared.get(name) or _inferred([row[at] for row in rows], name, self.name)
            fields.append(pa.field(name, kind))
        return pa.schema(fields)

    def _selected(
        self, connection: sa.Connection, names: Sequence[str]
    ) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
        """Return the statement for some columns, and the key column."""
        if self.spec.table is not None:
            table = self._reflected(connection)
            if self.spec.key not in table.columns:
                raise RequestError(missing_column(self.name, [self.spec.key], [c.name for c in table.columns]))
            return sa.select(*[table.columns[name] for name in names]), table.columns[self.spec.key]
        source = sa.text(f"({self.spec.query}) AS {_SELECTED}")
        return sa.select(*[sa.column(name) for name in names]).select_from(source), sa.column(self.spec.key)

    def _reflected(self, connection: sa.Connection) -> sa.Table:
        return sa.Table(self.spec.table or "", sa.MetaData(), schema=self.spec.table_schema, autoload_with=connection)

    def _table(self, found: Sequence[Sequence[Any]], rows: Rows, part: Part, on_bad: OnBad) -> tuple[pa.Table, Rows]:
        schema = self.schema()
        bad = np.zeros(len(rows), dtype=bool)
        columns: list[pa.Array] = []
        for at, field in enumerate(schema):
            values = [_plain(row[at], field.type) for row in found]
            column, wrong = _column(values, field.type)
            for row in np.flatnonzero(wrong & ~bad):
                on_bad(type_breach(part, int(rows[row]), field, str(tuple(found[int(row)]))))
            bad |= wrong
            columns.append(column)
        table, rows = pa.Table.from_arrays(columns, schema=schema).filter(pa.array(~bad)), rows[~bad]
        while (large := too_large(table, self.limits.cell_bytes)) is not None:
            name, over = large
            reason = f"a cell has more bytes than limits.cell_bytes of {self.limits.cell_bytes}"
            for row in rows[over]:
                on_bad(BadRow(file=part.file, path=part.path, row=int(row), reason=reason, column=name))
            table, rows = table.filter(pa.array(~over)), rows[~over]
        return table, rows

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        try:
            with _engine(self._url()).connect() as connection:
                yield connection
        except sa_exc.NoSuchTableError as exc:
            raise RequestError(f"The database has no {self.name}; correct `table` or `table_schema`.") from exc
        except (sa_exc.OperationalError, sa_exc.InterfaceError, sa_exc.DisconnectionError) as exc:
            if "no such column" in str(exc) or "syntax error" in str(exc) or "no such table" in str(exc):
                raise RequestError(f"The database refuses the {self.name}: {_first_line(exc)}.") from exc
            raise UnavailableError(
                f"The database of {self.name} does not answer: {_first_line(exc)}. Try again."
            ) from exc
        except (sa_exc.DBAPIError, sa_exc.ArgumentError, sa_exc.NoSuchModuleError) as exc:
            raise RequestError(f"The database refuses the {self.name}: {_first_line(exc)}.") from exc

    def _url(self) -> str:
        if self.spec.url_environment is not None:
            url = os.environ.get(self.spec.url_environment)
            if not url:
                raise RequestError(
                    f"The environment variable {self.spec.url_environment} is not set where the job runs."
                )
        else:
            url = self.spec.url or ""
        relative = "sqlite:///"
        if url.startswith(relative) and not url.startswith(("sqlite:////", "sqlite:///:memory:", "sqlite:///file:")):
            url = f"{relative}{Path(self._folder) / url.removeprefix(relative)}"
        return url.replace("postgresql://", "postgresql+psycopg://", 1)


@lru_cache(maxsize=8)
def _engine(url: str) -> sa.Engine:
    try:
        return sa.create_engine(url, hide_parameters=True, poolclass=sa.NullPool)
    except sa_exc.SQLAlchemyError as exc:
        raise RequestError(
            f"The database URL cannot be used ({type(exc).__name__}); write DIALECT://HOST/NAME."
        ) from None
    except ModuleNotFoundError as exc:
        raise RequestError(f"The database needs the package {exc.name!r}: pip install 'lightmill[postgres]'.") from exc


class _Digest:
    """A file that keeps the digest and the size of what is written to it."""

    closed = False

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return len(data)

    def note(self, bad: BadRow) -> None:
        self.digest.update(bad.model_dump_json().encode())

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""


def _arrow_type(column: sa.Column[Any], name: str) -> pa.DataType:
    kind = column.type
    if isinstance(kind, sa.Numeric) and not isinstance(kind, sa.Float):
        return (
            pa.decimal128(kind.precision, kind.scale or 0) if kind.precision and kind.precision <= 38 else pa.string()
        )
    for known, arrow in _ARROW:
        if isinstance(kind, known):
            zoned = isinstance(kind, sa.DateTime) and kind.timezone
            return pa.timestamp("us", tz="UTC") if zoned else arrow
    raise RequestError(f"Column {column.name!r} of {name} is {kind}, which is not known; declare its dtype.")


def _inferred(values: list[Any], column: str, name: str) -> pa.DataType:
    plain = [_plain(value, pa.string()) if isinstance(value, dict | list | uuid.UUID) else value for value in values]
    try:
        found = pa.array(plain).type
    except (pa.ArrowInvalid, pa.ArrowTypeError) as exc:
        raise RequestError(f"Column {column!r} of {name} holds values of several types; declare its dtype.") from exc
    return pa.string() if pa.types.is_null(found) else found


def _plain(value: Any, kind: pa.DataType) -> Any:
    """Return a driver's value as one that Arrow takes: decimals, UUIDs and JSON as the column wants them."""
    if value is None:
        return None
    if isinstance(value, Decimal):
        return float(value) if pa.types.is_floating(kind) else str(value) if pa.types.is_string(kind) else value
    if pa.types.is_string(kind) and isinstance(value, uuid.UUID):
        return str(value)
    if pa.types.is_string(kind) and isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    return value


def _column(values: list[Any], kind: pa.DataType) -> tuple[pa.Array, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return the column and which values are not of its type; tried one by one only when there are such."""
    bad = np.zeros(len(values), dtype=bool)
    try:
        return pa.array(values, type=kind), bad
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError, ValueError):
        for at, value in enumerate(values):
            try:
                pa.scalar(value, type=kind)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError, ValueError):
                bad[at] = True
    return pa.array([None if wrong else value for value, wrong in zip(values, bad, strict=True)], type=kind), bad


def _first_line(exc: sa_exc.SQLAlchemyError) -> str:
    return str(exc.orig if isinstance(exc, sa_exc.DBAPIError) else exc).splitlines()[0][:200]
