"""WebDataset: tar files whose members with one name up to the first dot are one sample. Nothing is unpickled."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from functools import cached_property
from typing import IO, cast

import numpy as np
import pyarrow as pa

from lightmill.datasets.sources.file_source import FileSource, Rows
from lightmill.datasets.sources.files import FileRef, Place
from lightmill.datasets.sources.port import BadRow, OnBad, Part, consecutive
from lightmill.datasets.sources.problems import DamageError, reading_errors
from lightmill.datasets.sources.streams import codec_of, decompressed
from lightmill.records.sources import WebdatasetSpec

KEY = "__key__"
_TEXT = ("txt", "json", "cls")
_BATCH_BYTES = 32 << 20
_TAR_SUFFIXES = {".tgz": "gzip"}
Sample = dict[str, bytes | None]


class WebdatasetSource(FileSource[WebdatasetSpec]):
    """Tar files of samples; a row has its `__key__` and a column per member ending, lower case."""

    suffixes = (".tar", ".tar.gz", ".tgz", ".tar.zst")

    def _file_schema(self, place: Place, file: FileRef) -> pa.Schema:
        if self.spec.members is not None:
            return _schema(self.spec.members)
        with place.open(file) as opened:
            for _, _, sample, _ in self._samples(opened, file):
                return _schema(tuple(sample))
        raise DamageError("it holds no samples")

    def tables(self, part: Part, batch_rows: int, on_bad: OnBad) -> Iterator[tuple[pa.Table, Rows]]:
        """Yield tables of about 32 MiB."""
        place, file = self.place_of(part)
        members = list(self._endings)
        waiting: list[tuple[int, str, Sample]] = []
        size = seen = 0
        with place.open(file) as opened:
            for row, key, sample, problem in self._samples(opened, file):
                seen = row + 1
                unknown = [name for name in sample if name not in members]
                problem = problem or (f"it has a member {unknown[0][:40]!r} that is no column" if unknown else "")
                problem = problem or _undecodable(sample)
                if problem:
                    on_bad(BadRow(file=part.file, path=part.path, row=row, reason=problem, text=key))
                    continue
                waiting.append((row, key, sample))
                size += sum(len(value or b"") for value in sample.values())
                if size >= _BATCH_BYTES or len(waiting) >= batch_rows:
                    yield self._table(waiting, members, part, on_bad)
                    waiting, size = [], 0
        if not seen:
            raise DamageError("it holds no samples")
        if waiting:
            yield self._table(waiting, members, part, on_bad)

    @cached_property
    def _endings(self) -> tuple[str, ...]:
        """The members that are columns: the declared ones, or those of the first sample that can be read."""
        found = self.spec.members or ()
        for place, file in () if found else self.files:
            with reading_errors(file.path):
                return tuple(name for name in self._file_schema(place, file).names if name != KEY)
        return found

    def _table(
        self, found: list[tuple[int, str, Sample]], members: list[str], part: Part, on_bad: OnBad
    ) -> tuple[pa.Table, Rows]:
        rows = np.array([row for row, _, _ in found], dtype=np.int64) if found else consecutive(0, 0)
        columns = [pa.array([key for _, key, _ in found], pa.string())]
        for name in members:
            values = pa.array([sample.get(name) for _, _, sample in found], pa.binary())
            columns.append(values.cast(pa.string()) if name in _TEXT else values)
        return self.conform(pa.Table.from_arrays(columns, schema=_schema(tuple(members))), rows, part, on_bad)

    def _samples(self, opened: IO[bytes], file: FileRef) -> Iterator[tuple[int, str, Sample, str]]:
        """Yield (row, key, members, problem); members of one sample follow one another."""
        row, key, sample, problem = 0, "", dict[str, bytes | None](), ""
        for name, ending, data, wrong in self._members(opened, file):
            if sample and name != key:
                yield row, key, sample, problem
                row, sample, problem = row + 1, {}, ""
            if ending in sample:
                problem = problem or f"it has the member {ending[:40]!r} twice"
            key, problem = name, problem or wrong
            sample[ending] = data
        if sample:
            yield row, key, sample, problem

    def _members(self, opened: IO[bytes], file: FileRef) -> Iterator[tuple[str, str, bytes | None, str]]:
        codec = codec_of(file.path, self.spec.compression) or _TAR_SUFFIXES.get(file.path[-4:].lower())
        stream = cast(IO[bytes], decompressed(opened, codec, self.limits.expansion))
        with tarfile.open(fileobj=stream, mode="r|", errorlevel=2) as archive:
            for member in archive:
                if not member.isfile() or member.name.rpartition("/")[2].startswith("."):
                    continue
                folder, _, base = member.name.rpartition("/")
                name, _, ending = base.partition(".")
                key = f"{folder}/{name}" if folder else name
                if member.size > self.limits.cell_bytes:
                    wrong = f"a member has more bytes than limits.cell_bytes of {self.limits.cell_bytes}"
                    yield key, ending.lower(), None, wrong
                    continue
                content = archive.extractfile(member)
                data = content.read() if content is not None else b""
                if len(data) < member.size:
                    raise DamageError("it ends within a member; the file is truncated")
                yield key, ending.lower(), data, ""


def _schema(members: tuple[str, ...]) -> pa.Schema:
    columns = [(name, pa.string() if name in _TEXT else pa.binary()) for name in members if name != KEY]
    return pa.schema([(KEY, pa.string()), *columns])


def _undecodable(sample: Sample) -> str:
    for name in _TEXT:
        try:
            (sample.get(name) or b"").decode("utf-8")
        except UnicodeDecodeError:
            return f"its member {name!r} is no UTF-8"
    return ""
