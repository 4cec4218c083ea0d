"""Where a row of a dataset version comes from: found by its id, or by its place in a split."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import JsonValue

from lightmill.datasets.columns import ROW_ID
from lightmill.datasets.described import Described, described
from lightmill.datasets.parquet import read_encrypted
from lightmill.datasets.quarantine import PREFIX
from lightmill.datasets.sources.port import ROW_BITS
from lightmill.errors import NotFoundError, RequestError
from lightmill.records.assets import FileEntry, RowOrigin, SourceFile
from lightmill.records.dataset_versions import RowTrace
from lightmill.records.jobs import Progress
from lightmill.records.splitting import SPLITS
from lightmill.registry import OpenVersion

Report = Callable[[Progress], None]
GROUPS = (*SPLITS, "quarantine")
_NOT_BY_FILE = ("sql", "images")


def trace_row(version: OpenVersion, row_id: int, report: Report = lambda _: None) -> RowTrace:
    """Return the row with this id; reads the ids of one file after another until it is found.

    Raises:
        NotFoundError: The version holds no such row; the message says which place of the source the id names.
        IntegrityError: Stored bytes are not what was written.
    """
    known = described(version)
    files = [entry for group in GROUPS for entry in _files(version, group)]
    for number, entry in enumerate(files):
        report(Progress(phase="look for the row", done=number, total=len(files), unit="files"))
        ids = read_encrypted(version.read_object(entry), version.file_subkey(entry), entry.path, [ROW_ID]).column(
            ROW_ID
        )
        found = np.flatnonzero(ids.to_numpy() == row_id)
        if len(found):
            return _traced(version, known, entry, int(found[0]))
    source, place, row, _ = origin_of(known, row_id)
    named = ""
    if source:
        there = place or source.name
        there = f"row {row} of {there}" if row else there
        named = f" Its id names {there}, which was dropped, filtered out or never there."
    raise NotFoundError(f"{version.id} holds no row {row_id}.{named}")


def trace_position(version: OpenVersion, group: str, position: int) -> RowTrace:
    """Return the row at a place of a split or of the quarantine, from 0; reads one file.

    Raises:
        RequestError: There is no such split.
        NotFoundError: It has fewer rows.
    """
    if group not in GROUPS:
        raise RequestError(f"There is no split {group!r}; choose one of {', '.join(GROUPS)}.")
    left = position
    for entry in _files(version, group):
        if 0 <= left < (entry.rows or 0):
            return _traced(version, described(version), entry, left)
        left -= entry.rows or 0
    total = sum(entry.rows or 0 for entry in _files(version, group))
    raise NotFoundError(f"{group!r} of {version.id} has {total} rows; there is none at {position}, counted from 0.")


def origin_of(known: Described, row_id: int) -> tuple[SourceFile | None, str, int | None, str]:
    """Return the source file, the place in it, the row number there from 1, and what could not be told."""
    origins = known.card.origins or _by_file(known)
    position, row = row_id >> ROW_BITS, row_id & ((1 << ROW_BITS) - 1)
    origin = next((one for one in reversed(origins) if one.first <= position), None)
    if origin is None:
        return None, "", row + 1, "The version does not record which file the high part of a row id stands for."
    if origin.rows_are_files:
        entry, row_there = origin.source + (position - origin.first) * origin.rows_are_files + row, None
    elif origin.part:
        entry, row_there = origin.source, row + 1
    else:
        entry, row_there = origin.source + position - origin.first, row + 1
    if entry >= len(known.card.sources) or (origin.part and position != origin.first):
        return None, "", row + 1, "The version names no such source file."
    return known.card.sources[entry], origin.part, row_there, ""


def _by_file(known: Described) -> tuple[RowOrigin, ...]:
    """Return how ids of a version that records no origins are read: by file, if all its sources are such."""
    sources = known.spec.get("sources") or [known.spec.get("source")]
    formats = [source.get("format") for source in sources if isinstance(source, dict)]
    if not formats or any(found in _NOT_BY_FILE for found in formats):
        return ()
    return (RowOrigin(first=0, source=0),)


def _files(version: OpenVersion, group: str) -> list[FileEntry]:
    return [entry for entry in version.manifest.files if entry.group == group and entry.object]


def _traced(version: OpenVersion, known: Described, entry: FileEntry, at: int) -> RowTrace:
    table = read_encrypted(version.read_object(entry), version.file_subkey(entry), entry.path).slice(at, 1)
    group = entry.group or ""
    before = 0
    for file in _files(version, group):
        if file.path == entry.path:
            break
        before += file.rows or 0
    values = {name: _plain(column[0].as_py()) for name, column in _columns(table).items()}
    row_id = int(table.column(ROW_ID)[0].as_py())
    source, place, row, note = origin_of(known, row_id)
    return RowTrace(
        version=version.id,
        row_id=row_id,
        group=group,
        position=before + at,
        source=source,
        place=place,
        source_row=row,
        reason=str(values.get(f"{PREFIX}reason") or ""),
        note=note,
        values={name: value for name, value in values.items() if name != ROW_ID},
    )


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _plain(value: Any) -> JsonValue:
    """Return a stored value as JSON: bytes by their number, times in ISO 8601, what is not finite as text."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
