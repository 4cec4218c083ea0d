"""Datasets from the command line: a first specification from a sample, and the page of a version's profile."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from lightmill.datasets.infer import propose
from lightmill.datasets.profile_page import profile_page
from lightmill.datasets.profiles import read_profile
from lightmill.datasets.sources.opening import open_source
from lightmill.datasets.sources.port import BadRow
from lightmill.errors import NotFoundError, RequestError
from lightmill.records.base import Record
from lightmill.records.jobs import Progress
from lightmill.records.references import AssetKind, parse_reference
from lightmill.records.sources import SourceSpec
from lightmill.wiring.operations import OperationContext
from lightmill.wiring.platform import open_platform

SAMPLE_FILES = 8
SAMPLE_ROWS = 2000
FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".txt": "text",
    ".npy": "numpy",
    ".npz": "numpy",
    ".tar": "webdataset",
}
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_MUST_STAY_TEXT = re.compile(r"[+-]?0\d|\d{16,}")
"""Codes with leading zeros, and numbers too long to be counts, are texts."""
SOURCE: TypeAdapter[Any] = TypeAdapter(SourceSpec)


class InferOptions(Record):
    """What to look at: an absolute path or a URI, and what to call the dataset; `format` where its name tells none.

    `folder` is where the specification will lie; the path in it is taken from there.
    """

    path: str
    name: str
    format: str | None = None
    folder: str = "/"


class Inferred(Record):
    """A proposed specification as YAML text with comments, and how many rows it was made from."""

    text: str
    rows: int
    columns: int
    unreadable: int


class ProfileOptions(Record):
    """Which version's profile to write to which absolute path."""

    reference: str
    path: str


class ProfilePage(Record):
    """What was written."""

    version: str
    path: str
    rows: int
    columns: int


def infer(context: OperationContext, options: InferOptions) -> Inferred:
    """Propose a specification from the first rows of the first files.

    Raises:
        NotFoundError: There is nothing at the path.
        RequestError: The format is not to be told from the name, or the sample has no columns.
    """
    declared = described(options.path, options.format)
    source = open_source(SOURCE.validate_python(declared), Path("/"))
    parts = list({part.file: part for part in reversed(source.parts())}.values())[::-1][:SAMPLE_FILES]
    bad: list[BadRow] = []
    tables: dict[str, pa.Table] = {}
    for number, part in enumerate(parts):
        context.report(Progress(phase="sample", done=number, total=len(parts), unit="files"))
        chunk = next(iter(source.read(part, batch_rows=SAMPLE_ROWS, on_bad=bad.append)), None)
        if chunk is not None and len(chunk.table):
            tables[part.path] = _typed(chunk.table) if declared["format"] == "csv" else chunk.table
    if not tables:
        raise RequestError(f"The sample of {options.path} has no rows; {len(bad)} could not be read.")
    path, note = _seen_from(options.path, options.folder)
    proposal = propose(tables, options.name, {**declared, "path": path}, [note] if note else [])
    return Inferred(
        text=proposal.text,
        rows=sum(len(table) for table in tables.values()),
        columns=len(proposal.spec["columns"]),
        unreadable=len(bad),
    )


def profile(context: OperationContext, options: ProfileOptions) -> ProfilePage:
    """Write the profile of a dataset version as one HTML page.

    Raises:
        NotFoundError: There is no such version, or it was made without a profile.
    """
    platform = open_platform(context.settings)
    with platform.catalog:
        id = platform.registry.resolve(AssetKind.DATASET, parse_reference(options.reference))
        version = platform.registry.open(id)
        found = read_profile(version)
    path = Path(options.path)
    path.write_text(profile_page(found), encoding="utf-8")
    return ProfilePage(version=str(id), path=str(path), rows=found.rows, columns=len(found.columns))


def described(path: str, format: str | None) -> dict[str, Any]:
    """Return the `source` section of a path or URI; `format` is for names that tell none.

    Raises:
        NotFoundError: There is nothing at the path.
        RequestError: The format is not to be told from the name.
    """
    declared: dict[str, Any] = {"format": format or _format_of(path), "path": path}
    if _plain_name(path).endswith(".tsv"):
        declared["delimiter"] = "\t"
    return declared


def _format_of(path: str) -> str:
    suffix = Path(_plain_name(path)).suffix
    if suffix in FORMATS:
        return FORMATS[suffix]
    folder = Path(path)
    if folder.is_dir():
        suffixes = {file.suffix.lower() for file in folder.rglob("*") if file.is_file()}
        if suffixes and suffixes <= PICTURES:
            return "images"
        known = {FORMATS[found] for found in suffixes if found in FORMATS}
        if len(known) == 1:
            return known.pop()
    if "://" not in path and not folder.exists() and not set("*?[") & set(path):
        raise NotFoundError(f"There is nothing at {path}.")
    raise RequestError(f"The format of {path} is not to be told from its name; give --format.")


def _plain_name(path: str) -> str:
    return path.lower().removesuffix(".gz").removesuffix(".zst").removesuffix(".bz2")


def _seen_from(path: str, folder: str) -> tuple[str, str | None]:
    """Return a path as it is written in a specification that lies in `folder`, and a note where that needs one.

    It is relative where both lie in one folder other than the root, so that they may move together.
    """
    if "://" in path or folder == "/":
        return path, None
    shared = os.path.commonpath([path, folder])
    if shared == "/":
        note = f"source.path is absolute, since it shares no folder with {folder}; the file must be there for the job"
        return path, note
    seen = os.path.relpath(path, folder)
    return (f"{seen}/" if path.endswith("/") else seen), None


def _typed(table: pa.Table) -> pa.Table:
    """Return a table of texts with numbers, booleans and times where all of a column are such."""
    columns = []
    for column in table.columns:
        if any(_MUST_STAY_TEXT.match(text) for text in column.drop_null().to_pylist()):
            columns.append(column)
            continue
        for kind in (pa.int64(), pa.float64(), pa.bool_(), pa.date32(), pa.timestamp("us")):
            try:
                columns.append(column.cast(kind))
                break
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                continue
        else:
            columns.append(column)
    return pa.table(columns, names=table.column_names)
