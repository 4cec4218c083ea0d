"""A dataset version as Croissant 1.1 metadata (MLCommons; https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html).

Two record sets: `splits` are the names of the splits, and `rows` are the rows of all files, each with the split that
its file lies in. Paths are relative to the folder that holds the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from lightmill.datasets.columns import FEATURES, LABEL, ROW_ID
from lightmill.datasets.described import Described
from lightmill.records.annotations import Notes
from lightmill.records.splitting import SPLITS

CROISSANT_FILE = "croissant.json"
PARQUET = "application/x-parquet"
_NAMES = {
    "int8": "cr:Int8",
    "int16": "cr:Int16",
    "int32": "cr:Int32",
    "int64": "cr:Int64",
    "uint8": "cr:UInt8",
    "uint16": "cr:UInt16",
    "uint32": "cr:UInt32",
    "uint64": "cr:UInt64",
    "halffloat": "cr:Float16",
    "float": "cr:Float32",
    "double": "cr:Float64",
    "bool": "sc:Boolean",
}
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedFile:
    """A file that the metadata lists: its path from the metadata's folder, its size and the digest of its bytes."""

    path: str
    size_bytes: int
    sha256: str


def croissant(
    known: Described, notes: Notes, schema: pa.Schema, files: Sequence[DistributedFile], *, sealed: bool
) -> str:
    """Return the metadata as JSON text.

    Args:
        known: The version.
        notes: What is said of it.
        schema: The columns of its files.
        files: What is distributed.
        sealed: The files are the encrypted objects of the store, and not those of an export.
    """
    card = known.card
    body: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": known.id.name,
        "description": notes.text.description or card.description or f"Version {known.id.seq} of {known.id.name}.",
        "version": f"{known.id.seq}.0.0",
        "datePublished": known.manifest.created[:10],
        "identifier": f"sha256:{known.id.digest}",
        "citeAs": f"{known.id} (sha256:{known.id.digest})",
    }
    if card.licence:
        body["license"] = card.licence
    if notes.tags:
        body["keywords"] = [f"{name}={value}" for name, value in notes.tags.items()]
    body |= _responsible(known, notes)
    body["distribution"] = [*(_file(file, sealed) for file in files), _file_set(sealed)]
    body["recordSet"] = [
        _splits(known),
        {"@type": "cr:RecordSet", "@id": "rows", "field": list(_fields(known, schema))},
    ]
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def _responsible(known: Described, notes: Notes) -> dict[str, Any]:
    """Return what the extension for responsible AI asks for, of what is known."""
    masked = known.card.profile.masked
    steps = [str(step.get("step")) for step in known.spec.get("prepare") or () if isinstance(step, dict)]
    found: dict[str, Any] = {}
    if steps:
        found["rai:dataPreprocessingProtocol"] = f"Steps, fitted on the training split: {', '.join(steps)}."
    if notes.text.limitations:
        found["rai:dataLimitations"] = notes.text.limitations
    if notes.text.intended_use:
        found["rai:dataUseCases"] = notes.text.intended_use
    if masked:
        values = sum(count.values for count in masked.counts)
        found["rai:personalSensitiveInformation"] = (
            f"Masked by the policy {masked.policy}, version {masked.version}: {values} values."
        )
    return found


def _file(file: DistributedFile, sealed: bool) -> dict[str, Any]:
    found = {
        "@type": "cr:FileObject",
        "@id": f"sealed/{file.path}" if sealed else file.path,
        "name": file.path.rpartition("/")[2],
        "contentUrl": file.path,
        "contentSize": f"{file.size_bytes} B",
        "encodingFormat": PARQUET,
        "sha256": file.sha256,
    }
    if sealed:
        found["description"] = (
            "An object of the version's store, encrypted by Parquet Modular Encryption; the digest is of these bytes."
        )
    return found


def _file_set(sealed: bool) -> dict[str, Any]:
    what = "what an export of the version holds" if sealed else "the files of all splits"
    return {
        "@type": "cr:FileSet",
        "@id": "files",
        "description": f"Plain Parquet files, a folder for each split: {what}.",
        "includes": "*/*.parquet",
        "encodingFormat": PARQUET,
    }


def _splits(known: Described) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [{"@type": "cr:Field", "@id": "splits/name", "dataType": "sc:Text"}],
        "data": [{"splits/name": name} for name in SPLITS if known.card.profile.splits.get(name)],
    }


def _fields(known: Described, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    yield {
        "@type": "cr:Field",
        "@id": "rows/split",
        "description": "The split that the row belongs to.",
        "dataType": "sc:Text",
        "source": {
            "fileSet": {"@id": "files"},
            "extract": {"fileProperty": "fullpath"},
            # mlcroissant applies it a second time to what it gave, where it joins the splits; hence the last `?`.
            "transform": {"regex": rf"^(?:.*/)?({'|'.join(SPLITS)})(?:/[^/]+\.parquet)?$"},
        },
        "references": {"field": {"@id": "splits/name"}},
    }
    for field in schema:
        said = column_text(known, field)
        yield {
            "@type": "cr:Field",
            "@id": f"rows/{quote(field.name, safe='')}",
            "name": field.name,
            **({"description": said} if said else {}),
            **_type(known, field),
            "source": {"fileSet": {"@id": "files"}, "extract": {"column": field.name}},
        }


def column_text(known: Described, field: pa.Field) -> str:
    """Return what a stored column is, in a sentence; empty for a plain source column."""
    if field.name == ROW_ID:
        return "The row's place in the sources; it stays through preparation and splits."
    if field.name == LABEL:
        named = "" if known.label_is_personal() else f" into: {', '.join(known.card.classes)}"
        return f"The class as an index{named}."
    if field.name == FEATURES:
        columns = [name for name, rule in known.rules().items() if rule.role in ("feature", "image")]
        return f"The prepared features, made of: {', '.join(columns)}." if columns else "The prepared features."
    rule = known.rules().get(field.name)
    return "A personal column of the source, as masking left it." if rule and rule.tags else ""


def _type(known: Described, field: pa.Field) -> dict[str, Any]:
    kind, found = field.type, dict[str, Any]()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else -1
        found = {"isArray": True, "arrayShape": str(size)}
        kind = kind.value_type
    rule = known.rules().get(field.name)
    if pa.types.is_binary(kind) and rule is not None and rule.role == "image":
        return {"dataType": "sc:ImageObject", **found}
    return {"dataType": _data_type(kind), **found}


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_date(kind):
        return "sc:Date"
    if pa.types.is_timestamp(kind):
        return "sc:DateTime"
    return _NAMES.get(str(kind), "sc:Text")
