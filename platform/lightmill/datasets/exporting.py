"""From a dataset version to plain Parquet: the deliberate way out of the vault, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lightmill.datasets.croissant import CROISSANT_FILE, DistributedFile, croissant
from lightmill.datasets.described import Described, described
from lightmill.datasets.parquet import read_encrypted, read_encrypted_schema
from lightmill.datasets.version_card import render_card
from lightmill.errors import ConflictError, NotFoundError, RequestError
from lightmill.models.exchange.target import ExportedFile, check_free, target_folder
from lightmill.records.annotations import Notes
from lightmill.records.assets import FileEntry
from lightmill.records.base import Record
from lightmill.records.jobs import Progress
from lightmill.records.references import VersionId
from lightmill.records.splitting import SPLITS
from lightmill.registry import OpenVersion
from lightmill.registry.names import blob_name

README_FILE = "README.md"
WARNING = "The exported files are not encrypted: whoever can read the folder has the rows."
Report = Callable[[Progress], None]


class ExportedDataset(Record):
    """What an export wrote."""

    version: VersionId
    folder: str
    rows: int
    files: tuple[ExportedFile, ...]
    warning: str = WARNING


def export_version(
    version: OpenVersion,
    notes: Notes,
    folder: Path,
    *,
    columns: Sequence[str] = (),
    splits: Sequence[str] = (),
    force: bool = False,
    report: Report = lambda _: None,
) -> ExportedDataset:
    """Write a version's rows as Parquet files, a folder for each split, with Croissant metadata and a card.

    Files are those of the version, in its order, one in memory at a time; every byte is verified before it is parsed.

    Args:
        version: What to export.
        notes: What is said of it, for the card.
        folder: Must not exist or be empty; appears whole or not at all.
        columns: Which columns; all by default.
        splits: Which splits; all by default.
        force: Replace the export that is at `folder`.
        report: Told how far it is, in rows.

    Raises:
        ConflictError: The folder holds something; with `force`, something else than an export.
        RequestError: There is no such column or split.
        NotFoundError: The version has no rows in these splits.
        IntegrityError: Stored bytes are not what was written; nothing appears.
        UnavailableError: The disk or the store refuses; nothing appears.
    """
    _check_place(folder, force)
    known = described(version)
    entries = _chosen(version, splits)
    schema = stored_schema(version, entries, columns)
    total, done = sum(entry.rows or 0 for entry in entries), 0
    with target_folder(folder, replace=force) as target:
        for entry in entries:
            report(Progress(phase="export", done=done, total=total, unit="rows"))
            target.write(entry.path, [_plain(version, entry, schema)])
            done += entry.rows or 0
        listed = [DistributedFile(path=f.path, size_bytes=f.size_bytes, sha256=f.sha256) for f in target.files]
        part = _only(known, entries)
        target.write(CROISSANT_FILE, [croissant(part, notes, schema, listed, sealed=False).encode()])
        target.write(README_FILE, [render_card(part, notes, schema).encode()])
    report(Progress(phase="export", done=total, total=total, unit="rows"))
    return ExportedDataset(version=version.id, folder=str(folder), rows=total, files=tuple(target.files))


def describe_sealed(version: OpenVersion, notes: Notes) -> tuple[str, str]:
    """Return Croissant metadata and card of a version as it lies on the store; one file's columns are read."""
    known = described(version)
    entries = _chosen(version, ())
    schema = stored_schema(version, entries, ())
    files = [
        DistributedFile(path=blob_name(entry.object or ""), size_bytes=entry.size, sha256=entry.sha256)
        for entry in entries
    ]
    return croissant(known, notes, schema, files, sealed=True), render_card(known, notes, schema)


def stored_schema(version: OpenVersion, entries: Sequence[FileEntry], columns: Sequence[str]) -> pa.Schema:
    """Return the chosen columns of a version's files, as its smallest one has them.

    Raises:
        RequestError: There is no such column.
    """
    entry = min(entries, key=lambda one: one.size)
    schema = read_encrypted_schema(version.read_object(entry), version.file_subkey(entry), entry.path).remove_metadata()
    unknown = [name for name in columns if name not in schema.names]
    if unknown:
        raise RequestError(f"{version.id} has no column {unknown[0]!r}; it has {', '.join(schema.names)}.")
    return pa.schema([schema.field(name) for name in columns]) if columns else schema


def _check_place(folder: Path, force: bool) -> None:
    if not force:
        check_free(folder)
    elif folder.is_symlink() or (folder.exists() and not (folder / CROISSANT_FILE).is_file()):
        raise ConflictError(f"{folder} is no export of a dataset, so that it is not replaced. Choose another folder.")


def _chosen(version: OpenVersion, splits: Sequence[str]) -> list[FileEntry]:
    unknown = [name for name in splits if name not in SPLITS]
    if unknown:
        raise RequestError(f"There is no split {unknown[0]!r}; choose of {', '.join(SPLITS)}.")
    wanted = splits or SPLITS
    found = [entry for entry in version.manifest.files if entry.object and entry.group in wanted]
    if not found:
        raise NotFoundError(f"{version.id} has no rows in {', '.join(wanted)}.")
    return found


def _plain(version: OpenVersion, entry: FileEntry, schema: pa.Schema) -> pa.Buffer:
    table = read_encrypted(version.read_object(entry), version.file_subkey(entry), entry.path, schema.names)
    sink = pa.BufferOutputStream()
    pq.write_table(table.select(schema.names).cast(schema), sink, compression="zstd")
    return sink.getvalue()


def _only(known: Described, entries: Sequence[FileEntry]) -> Described:
    """Return the version with the splits that are exported."""
    groups = {entry.group for entry in entries}
    counts = {name: rows for name, rows in known.card.profile.splits.items() if name in groups}
    profile = known.card.profile.model_copy(update={"splits": counts})
    card = known.card.model_copy(update={"profile": profile})
    return Described(id=known.id, manifest=known.manifest, card=card, profile=known.profile)
