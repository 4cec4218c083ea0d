"""Datasets that Hugging Face `datasets` saved on disk: state.json names the Arrow files, in order.

`_fingerprint` and the transforms in state.json are not followed: files are read as they were saved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightmill.datasets.sources.arrow import ArrowFiles
from lightmill.datasets.sources.file_source import Types
from lightmill.datasets.sources.files import FileRef, Place, find_files
from lightmill.datasets.sources.problems import reading_errors
from lightmill.errors import RequestError
from lightmill.records.sources import HuggingfaceSpec

STATE = "state.json"
_STATE_BYTES = 4 << 20


class HuggingfaceSource(ArrowFiles):
    """One saved split: a folder with state.json. Of a saved DatasetDict, name the folder of a split."""

    def __init__(self, spec: HuggingfaceSpec, folder: Path, columns: Types | None = None) -> None:
        self.spec = spec
        self.limits = spec.limits
        self.columns = dict(columns) if columns else None
        self.files = tuple(found for path in spec.paths() for found in _saved_files(path, spec, folder))


def _saved_files(path: str, spec: HuggingfaceSpec, folder: Path) -> list[tuple[Place, FileRef]]:
    """Return the Arrow files of one saved split.

    Raises:
        NotFoundError: There is no state.json, or a file that it names is gone.
        RequestError: It is not what `datasets` writes, or a selection of rows was saved with it.
    """
    base = path.rstrip("/")
    names = _names(f"{base}/{STATE}", spec, folder)
    wanted = spec.model_copy(update={"path": tuple(f"{base}/{name}" for name in names)})
    return list(find_files(wanted, folder))


def _names(state: str, spec: HuggingfaceSpec, folder: Path) -> list[str]:
    place, file = find_files(spec.model_copy(update={"path": state}), folder)[0]
    found: Any = None
    with reading_errors(state), place.open(file) as opened:
        found = json.loads(opened.read(_STATE_BYTES))
    entries = found.get("_data_files") if isinstance(found, dict) else None
    names = [str(entry.get("filename", "")) for entry in _mappings(entries)]
    if names and all(name not in ("", "..") and "/" not in name for name in names):
        if found.get("_indices_data_files"):
            raise RequestError(f"{state} holds a selection of rows; save the dataset with flatten_indices().")
        return names
    raise RequestError(f"{state} is not what datasets.save_to_disk writes; save the dataset again.")


def _mappings(entries: Any) -> list[dict[str, Any]]:
    """Return a list of mappings, empty if it is anything else."""
    whole = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    return entries if whole else []
