"""Images as the bytes of their files: from folders whose names are labels, or from a table that names them.

Nothing is decoded here: an image is checked where it is decoded, against a limit of pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from lightmill.datasets.sources.file_source import FileSource, Rows, Types
from lightmill.datasets.sources.files import FileRef, Place, filesystem, place_of
from lightmill.datasets.sources.opening import open_source
from lightmill.datasets.sources.port import BadRow, OnBad, Part, Source
from lightmill.datasets.sources.problems import DamageError, reading_errors
from lightmill.errors import NotFoundError, RequestError
from lightmill.records.assets import RowOrigin, SourceFile
from lightmill.records.sources import ImagesSpec

IMAGE = "image"
_SCHEMA = pa.schema([(IMAGE, pa.binary()), ("path", pa.string()), ("label", pa.string())])
_BATCH_BYTES = 32 << 20


def open_images(spec: ImagesSpec, folder: Path, columns: Types | None = None) -> Source:
    """Return the source of a folder of images, or of a table of paths; see `open_source` for the errors."""
    return ImageFolder(spec, folder, columns) if spec.table is None else ImageTable(spec, folder, columns)


class ImageFolder(FileSource[ImagesSpec]):
    """A row per file: `image` binary, `path`, and `label`, the name of the folder that holds it.

    A part is a group of `per_part` files in name order; the part's rows are numbered within the group, so that
    row ids are stable while no file comes in between.
    """

    def __init__(self, spec: ImagesSpec, folder: Path, columns: Types | None = None) -> None:
        self.suffixes = spec.suffixes
        super().__init__(spec, folder, columns)

    def parts(self) -> list[Part]:
        """Return a part per group of files."""
        return list(self._groups)

    @cached_property
    def _groups(self) -> tuple[Part, ...]:
        step = self.spec.per_part
        groups = [list(self.files[at : at + step]) for at in range(0, len(self.files), step)]
        return tuple(
            Part(
                file=number,
                number=number,
                path=f"{group[0][1].path} and the next {len(group) - 1}" if len(group) > 1 else group[0][1].path,
                start=number * step,
                end=number * step + len(group),
                rows=len(group),
                size_bytes=sum(file.size_bytes for _, file in group),
                fingerprint=";".join(file.fingerprint for _, file in (group[0], group[-1])),
            )
            for number, group in enumerate(groups)
        )

    def identity(self) -> str | None:
        """Return that of every file, since a group shows its first and last only."""
        return "\n".join(f"{file.path} {file.fingerprint}" for _, file in self.files)

    def origins(self) -> tuple[RowOrigin, ...]:
        """Return that every row is a file of its own."""
        return (RowOrigin(first=0, source=0, rows_are_files=self.spec.per_part),)

    def _file_schema(self, place: Place, file: FileRef) -> pa.Schema:
        return _SCHEMA

    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield tables of about 32 MiB; a file that cannot be read is one bad row."""
        waiting: list[tuple[int, bytes, str, str]] = []
        size = 0
        for row, (place, file) in enumerate(self.files[part.start : part.end]):
            data, problem = read_image(place, file, self.limits.cell_bytes)
            if data is None:
                on_bad(BadRow(file=part.file, path=file.path, row=row, reason=problem, text=file.path))
                continue
            waiting.append((row, data, file.path, PurePosixPath(file.key).parent.name))
            size += len(data)
            if size >= _BATCH_BYTES or len(waiting) >= batch_rows:
                yield self._table(waiting, part, on_bad)
                waiting, size = [], 0
        if waiting:
            yield self._table(waiting, part, on_bad)

    def _table(self, found: list[tuple[int, bytes, str, str]], part: Part, on_bad: OnBad) -> tuple[pa.Table, Rows]:
        rows, images, paths, labels = zip(*found, strict=True)
        table = pa.table({IMAGE: pa.array(images, pa.binary()), "path": paths, "label": labels}, schema=_SCHEMA)
        return self.conform(table, np.array(rows, dtype=np.int64), part, on_bad)


class ImageTable(Source):
    """The rows of a table, with the bytes of the file that each names in a column `image` at the end."""

    def __init__(self, spec: ImagesSpec, folder: Path, columns: Types | None = None) -> None:
        if spec.table is None:
            raise RequestError("images from a table need the key table; give its format and path.")
        inner = None if columns is None else {name: kind for name, kind in columns.items() if name != IMAGE}
        if inner is not None and spec.column not in inner:
            inner[spec.column] = pa.string()
        self.spec = spec
        self.limits = spec.limits
        self._inner = open_source(spec.table, folder, inner)
        self._place, root = place_of(spec.paths()[0], spec, folder)
        self._root = root.rstrip("/")

    def parts(self) -> list[Part]:
        """Return the parts of the table."""
        return self._inner.parts()

    def schema(self) -> pa.Schema:
        """Return the table's columns and `image`."""
        schema = self._inner.schema()
        if self.spec.column not in schema.names:
            raise RequestError(f"The table has no column {self.spec.column!r} of image paths; correct `column`.")
        return schema.append(pa.field(IMAGE, pa.binary()))

    def describe(self) -> tuple[SourceFile, ...]:
        """Return the table's files; the images are named by the rows themselves."""
        return self._inner.describe()

    def identity(self) -> str | None:
        """Return nothing: the files that rows name may have changed."""
        return None

    def origins(self) -> tuple[RowOrigin, ...]:
        """Return those of the table."""
        return self._inner.origins()

    def entries(self) -> int:
        """Return how many files the table has."""
        return self._inner.entries()

    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield the table's rows a few at a time, so that the images of one chunk stay below about 32 MiB."""
        schema = self.schema()
        for chunk in self._inner.read(part, batch_rows=batch_rows, on_bad=on_bad):
            images, kept, size = list[bytes](), list[int](), 0
            for at, name in enumerate(chunk.table.column(self.spec.column).to_pylist()):
                data, problem = self._image(name)
                if data is None:
                    bad = BadRow(
                        file=part.file, path=part.path, row=int(chunk.rows[at]), reason=problem, text=str(name)
                    )
                    on_bad(bad)
                    continue
                images.append(data)
                kept.append(at)
                size += len(data)
                if size >= _BATCH_BYTES:
                    yield _with_images(chunk.table, chunk.rows, kept, images, schema)
                    images, kept, size = [], [], 0
            if kept:
                yield _with_images(chunk.table, chunk.rows, kept, images, schema)

    def _image(self, name: Any) -> tuple[bytes | None, str]:
        if not isinstance(name, str) or not name:
            return None, "it names no image"
        if name.startswith("/") or "://" in name or ".." in PurePosixPath(name).parts:
            return None, "its image is outside the folder `path`; give paths within it"
        key = f"{self._root}/{name}"
        with reading_errors(name) as problem:
            info = filesystem(self._place).get_file_info(key)
            if not info.is_file:
                return None, "there is no such image"
            file = FileRef(path=name, key=key, size_bytes=info.size or 0, fingerprint="")
            return read_image(self._place, file, self.limits.cell_bytes)
        return None, problem[0]


def read_image(place: Place, file: FileRef, limit: int) -> tuple[bytes | None, str]:
    """Return a file's bytes, or None with what is wrong; raises UnavailableError if its place does not answer."""
    if file.size_bytes > limit:
        return None, f"the file has more bytes than limits.cell_bytes of {limit}"
    try:
        with reading_errors(file.path) as problem, filesystem(place).open_input_file(file.key) as opened:
            data = opened.read(limit + 1)
            if not data or len(data) > limit:
                raise DamageError("the file is empty" if not data else "the file has grown above limits.cell_bytes")
            return data, ""
    except NotFoundError:
        return None, "the file is gone"
    return None, problem[0]


def _with_images(
    table: pa.Table, rows: Rows, kept: list[int], images: list[bytes], schema: pa.Schema
) -> tuple[pa.Table, Rows]:
    chosen = table.take(pa.array(kept, type=pa.int64()))
    return pa.Table.from_arrays([*chosen.columns, pa.array(images, pa.binary())], schema=schema), rows[kept]
