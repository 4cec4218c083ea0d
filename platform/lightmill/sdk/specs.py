"""Specifications as the client takes them: a YAML file's path, or a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightmill.records.specs import Spec, SpecT, load_spec, parse_spec

SpecLike = str | Path | Mapping[str, Any]


def read_spec(kind: type[SpecT], spec: SpecLike) -> tuple[SpecT, str]:
    """Return a checked specification and the folder in which its relative paths begin.

    Raises:
        NotFoundError: There is no such file.
        RequestError: It is not a valid specification.
    """
    if isinstance(spec, Mapping):
        return parse_spec(kind, dict(spec), "The specification"), str(Path.cwd())
    path = Path(spec)
    return load_spec(kind, path), str(path.absolute().parent)


def as_json(spec: Spec) -> dict[str, Any]:
    """Return a specification as the API takes it."""
    return spec.model_dump(mode="json")
