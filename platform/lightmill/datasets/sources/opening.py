"""From a specification to its source: the built-in formats, and those of installed packages."""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

from lightmill.datasets.sources.file_source import Types
from lightmill.datasets.sources.port import Source
from lightmill.errors import RequestError
from lightmill.records.sources import PluginSpec, SourceSpec

GROUP: Final = "lightmill.sources"
_HOME: Final = "lightmill.datasets.sources"
_BUILT_IN: Final = {
    "csv": "csv:CsvSource",
    "jsonl": "jsonl:JsonlSource",
    "parquet": "parquet:ParquetSource",
    "arrow": "arrow:ArrowSource",
    "text": "text:TextSource",
    "images": "images:open_images",
    "numpy": "numpy:NumpySource",
    "webdataset": "webdataset:WebdatasetSource",
    "huggingface": "huggingface:HuggingfaceSource",
    "sql": "sql:SqlSource",
    "delta": "delta:DeltaSource",
    "iceberg": "iceberg:IcebergSource",
}


def open_source(spec: SourceSpec, folder: Path, columns: Types | None = None) -> Source:
    """Return the source that a specification names.

    Args:
        spec: The specification.
        folder: What relative paths are taken from: the folder of the specification's file.
        columns: The declared columns and their Arrow types, in order; others are not read. None reads all, with
            the types of the files (of text formats: strings for CSV, of the first rows for JSON lines).

    Raises:
        NotFoundError: There is nothing at the path.
        RequestError: No installed package has the format, or an extra that it needs is missing.
        UnavailableError: The place does not answer; a retry may succeed.
    """
    if isinstance(spec, PluginSpec):
        return _opened(_plugin(spec.format).load(), spec, folder, columns)
    module, _, name = _BUILT_IN[spec.format].partition(":")
    return _opened(getattr(importlib.import_module(f"{_HOME}.{module}"), name), spec, folder, columns)


def formats() -> tuple[str, ...]:
    """Return the names of all formats, those of installed packages included, in order."""
    return tuple(sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))}))


def _opened(kind: Any, spec: SourceSpec, folder: Path, columns: Types | None) -> Source:
    found = kind(spec, folder, columns)
    if not isinstance(found, Source):
        raise RequestError(f"The source format {spec.format!r} gives {type(found).__name__}, which is no Source.")
    return found


def _plugin(name: str) -> EntryPoint:
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        raise RequestError(f"There is no source format {name[:100]!r}; known are {', '.join(formats())}.")
    if len(found) > 1:
        raise RequestError(f"{len(found)} installed packages offer the source format {name!r}; uninstall all but one.")
    return found[0]
