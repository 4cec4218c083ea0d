"""Some files of a source, with numbers that go on from those of another version: what an append reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any

import pyarrow as pa

from lightmill.datasets.sources.file_source import FileSource, Rows
from lightmill.datasets.sources.files import digest_files
from lightmill.datasets.sources.port import BadRow, OnBad, Part, Source
from lightmill.records.assets import SourceFile


class Selection(Source):
    """The files of a source that are in `wanted` (by path), numbered from `first_file` on in their order."""

    def __init__(self, source: FileSource[Any], wanted: Collection[str], first_file: int) -> None:
        self.limits = source.limits
        self._source = source
        self._wanted = frozenset(wanted)
        self._first_file = first_file

    def parts(self) -> list[Part]:
        """Return the parts of the files; see `Source.parts`."""
        return [part for part, _ in self._pairs]

    @cached_property
    def _pairs(self) -> tuple[tuple[Part, Part], ...]:
        """Return each part beside the part that it is of the whole source."""
        wanted = [number for number, (_, file) in enumerate(self._source.files) if file.path in self._wanted]
        files = {number: self._first_file + place for place, number in enumerate(wanted)}
        whole = [part for part in self._source.parts() if part.file in files]
        return tuple(
            (part.model_copy(update={"file": files[part.file], "number": number}), part)
            for number, part in enumerate(whole)
        )

    def schema(self) -> pa.Schema:
        """Return the columns of the whole source; see `Source.schema`."""
        return self._source.schema()

    def describe(self) -> tuple[SourceFile, ...]:
        """Return the files in their order; see `Source.describe`."""
        return digest_files((place, file) for place, file in self._source.files if file.path in self._wanted)

    def identity(self) -> str | None:
        """Return that of the parts, if the whole source has one."""
        return super().identity() if self._source.identity() is not None else None

    def entries(self) -> int:
        """Return how many files are wanted."""
        return len(self._wanted)

    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield the tables of the part, as the whole source reads it."""
        inner = self._pairs[part.number][1]

        def renumbered(bad: BadRow) -> None:
            on_bad(bad.model_copy(update={"file": part.file}))

        for chunk in self._source.read(inner, batch_rows=batch_rows, on_bad=renumbered):
            yield chunk.table, chunk.rows
