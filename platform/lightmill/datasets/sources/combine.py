"""Several sources as one: their rows one after another, or joined by key columns.

File positions run on from source to source, so that row ids stay unique; a joined row has the id of its left row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from lightmill.datasets.sources.file_source import Rows
from lightmill.datasets.sources.port import BATCH_ROWS, OnBad, Part, Source, refuse
from lightmill.errors import RequestError
from lightmill.records.assets import RowOrigin, SourceFile
from lightmill.records.sources import CombineSpec, JoinSpec

pc: Any = pyarrow.compute  # its functions are made at import, where no type checker sees them

_AT = "lightmill_left_row"
_FOUND = "lightmill_right_row"


def combine(sources: Sequence[Source], spec: CombineSpec) -> Source:
    """Return one source of several.

    Raises:
        RequestError: There is none, or a join has not two.
    """
    if not sources:
        raise RequestError("The dataset names no source; give one in `source` or several in `sources`.")
    if isinstance(spec, JoinSpec):
        if len(sources) != 2:
            raise RequestError(f"A join takes two sources, not {len(sources)}; combine the others in a dataset first.")
        return Join(sources[0], sources[1], spec)
    return sources[0] if len(sources) == 1 else Union(sources, fill_nulls=spec.fill_nulls)


def _identities(sources: Sequence[Source]) -> str | None:
    found = [source.identity() for source in sources]
    known = [one for one in found if one is not None]
    return "\n\n".join(known) if len(known) == len(found) else None


class Union(Source):
    """The rows of several sources with the same columns, one source after another."""

    def __init__(self, sources: Sequence[Source], *, fill_nulls: bool = False) -> None:
        self.limits = sources[0].limits
        self._sources = tuple(sources)
        self._fill_nulls = fill_nulls

    def parts(self) -> list[Part]:
        """Return the parts of all sources; `file` and `number` run on."""
        return list(self._parts)

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        found: list[Part] = []
        for number, source in enumerate(self._sources):
            first_file = found[-1].file + 1 if found else 0
            found += [
                part.model_copy(update={"source": number, "file": first_file + part.file, "number": len(found) + n})
                for n, part in enumerate(source.parts())
            ]
        return tuple(found)

    def schema(self) -> pa.Schema:
        """Return the columns of the first source and, with `fill_nulls`, those that others add.

        Raises:
            RequestError: A source lacks a column, or has it with another type.
        """
        schemas = [source.schema() for source in self._sources]
        fields = {field.name: field for schema in reversed(schemas) for field in schema}
        names = list(dict.fromkeys(name for schema in schemas for name in schema.names))
        for number, schema in enumerate(schemas):
            self._check(number, schema, names, fields)
        return pa.schema([pa.field(name, fields[name].type) for name in names])

    def _check(self, number: int, schema: pa.Schema, names: list[str], fields: dict[str, pa.Field]) -> None:
        missing = [name for name in names if name not in schema.names]
        if missing and not self._fill_nulls:
            raise RequestError(
                f"Source {number} of the union lacks the columns {', '.join(missing[:8])}. Give sources with the same "
                "columns, declare the ones to read, or set combine.fill_nulls: true."
            )
        for field in schema:
            if field.type != fields[field.name].type:
                raise RequestError(
                    f"Source {number} of the union has {field.name!r} as {field.type}, another as "
                    f"{fields[field.name].type}; declare its dtype."
                )

    def describe(self) -> tuple[SourceFile, ...]:
        """Return the files of all sources, in order."""
        return tuple(file for source in self._sources for file in source.describe())

    def identity(self) -> str | None:
        """Return those of all sources, None if one has none."""
        return _identities(self._sources)

    def origins(self) -> tuple[RowOrigin, ...]:
        """Return those of all sources, at the positions that their files have here."""
        firsts: dict[int, int] = {}
        for part in self._parts:
            firsts.setdefault(part.source, part.file)
        found: list[RowOrigin] = []
        entries = 0
        for number, source in enumerate(self._sources):
            found += [
                origin.model_copy(update={"first": firsts[number] + origin.first, "source": entries + origin.source})
                for origin in (source.origins() if number in firsts else ())
            ]
            entries += source.entries()
        return tuple(found)

    def entries(self) -> int:
        """Return how many entries all sources have."""
        return sum(source.entries() for source in self._sources)

    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield the tables of the part's own source, with nulls for the columns that it lacks."""
        schema = self.schema()
        first = self._first_part(part.source)
        inner = part.model_copy(
            update={"file": part.file - first.file, "number": part.number - first.number, "source": 0}
        )

        def renumbered(bad: object) -> None:
            on_bad(bad.model_copy(update={"file": part.file}))  # pyright: ignore[reportAttributeAccessIssue]

        for chunk in self._sources[part.source].read(inner, batch_rows=batch_rows, on_bad=renumbered):
            yield _filled(chunk.table, schema), chunk.rows

    def _first_part(self, source: int) -> Part:
        return next(part for part in self._parts if part.source == source)


class Join(Source):
    """The rows of the left source with the columns of the right, which each reading process holds in memory.

    A null key matches nothing. Of several matches (`many`), rows come in the order of the right source, and share
    the left row's id.
    """

    def __init__(self, left: Source, right: Source, spec: JoinSpec) -> None:
        self.limits = left.limits
        self.spec = spec
        self._left = left
        self._right = right
        self._held: pa.Table | None = None

    def __getstate__(self) -> dict[str, object]:
        """Return what pickles: the right side is read again where it is needed."""
        return {**self.__dict__, "_held": None}

    def parts(self) -> list[Part]:
        """Return the parts of the left source."""
        return self._left.parts()

    def schema(self) -> pa.Schema:
        """Return the left columns, then the right ones without the keys.

        Raises:
            RequestError: A key is absent, has two types, or another column is on both sides.
        """
        left, right = self._left.schema(), self._right.schema()
        for name in self.spec.on:
            for side, schema in (("left", left), ("right", right)):
                if name not in schema.names:
                    raise RequestError(f"The {side} source of the join has no column {name!r}; correct combine.on.")
            if left.field(name).type != right.field(name).type:
                raise RequestError(
                    f"The key {name!r} is {left.field(name).type} on the left and {right.field(name).type} on the "
                    "right of the join; declare its dtype."
                )
        both = [name for name in right.names if name in left.names and name not in self.spec.on]
        if both:
            raise RequestError(f"Both sources of the join have a column {both[0]!r}; rename one.")
        return pa.schema([*left, *(field for field in right if field.name not in self.spec.on)])

    def describe(self) -> tuple[SourceFile, ...]:
        """Return the files of both sources."""
        return (*self._left.describe(), *self._right.describe())

    def identity(self) -> str | None:
        """Return those of both sources, None if one has none."""
        return _identities((self._left, self._right))

    def origins(self) -> tuple[RowOrigin, ...]:
        """Return those of the left source, whose entries come first."""
        return self._left.origins()

    def entries(self) -> int:
        """Return how many entries both sources have."""
        return self._left.entries() + self._right.entries()

    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield the left source's chunks, joined; bad rows of the left go to `on_bad`, of the right are refused."""
        schema, right = self.schema(), self._right_side()
        for chunk in self._left.read(part, batch_rows=batch_rows, on_bad=on_bad):
            yield self._joined(chunk.table, chunk.rows, right, schema)

    def _joined(self, left: pa.Table, rows: Rows, right: pa.Table, schema: pa.Schema) -> tuple[pa.Table, Rows]:
        """Return the joined rows in the order of the left ones: the join gives positions, columns are taken."""
        on = list(self.spec.on)
        keys = left.select(on).append_column(_AT, pa.array(np.arange(len(left))))
        kind = "inner" if self.spec.kind == "inner" else "left outer"
        numbered = right.select(on).append_column(_FOUND, pa.array(np.arange(len(right))))
        matched = keys.join(numbered, keys=on, join_type=kind).select([_AT, _FOUND])
        matched = matched.sort_by([(_AT, "ascending"), (_FOUND, "ascending")])
        chosen = left.take(matched.column(_AT))
        columns = [right.column(name).take(matched.column(_FOUND)) for name in right.column_names if name not in on]
        table = pa.Table.from_arrays([*chosen.columns, *columns], schema=schema)
        return table, rows[matched.column(_AT).to_numpy()]

    def _right_side(self) -> pa.Table:
        if self._held is None:
            self._held = self._read_right()
        return self._held

    def _read_right(self) -> pa.Table:
        """Return the whole right side.

        Raises:
            RequestError: It is too large, has a row that cannot be read, or a key twice.
        """
        tables, rows, size = [self._right.schema().empty_table()], 0, 0
        for part in self._right.parts():
            for chunk in self._right.read(part, batch_rows=BATCH_ROWS, on_bad=refuse):
                rows, size = rows + len(chunk.table), size + chunk.table.nbytes
                if rows > self.spec.right_rows or size > self.spec.right_bytes:
                    raise RequestError(
                        f"The right source of the join has more than {self.spec.right_rows} rows or "
                        f"{self.spec.right_bytes} bytes; put the small source on the right, or raise "
                        "combine.right_rows and combine.right_bytes."
                    )
                tables.append(chunk.table)
        whole = pa.concat_tables(tables).combine_chunks()
        if not self.spec.many:
            self._check_unique(whole)
        return whole

    def _check_unique(self, whole: pa.Table) -> None:
        on = list(self.spec.on)
        present = whole.select(on)
        for name in on:
            present = present.filter(pc.is_valid(present.column(name)))
        repeated = len(present) - len(present.group_by(on).aggregate([]))
        if repeated:
            raise RequestError(
                f"The right source of the join has {repeated} rows whose key ({', '.join(on)}) another row has too; "
                "remove them, or set combine.many: true."
            )


def _filled(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table.column(field.name) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
