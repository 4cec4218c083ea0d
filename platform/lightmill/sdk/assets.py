"""Datasets and models: what there is, where it comes from, where aliases point."""

from __future__ import annotations

from typing import Any

from lightmill.records.assets import AssetSummary, VersionSummary
from lightmill.records.base import Record
from lightmill.records.references import AssetKind, parse_reference
from lightmill.sdk.transport import API, Transport


class AssetDetail(Record):
    """An asset with all its versions, newest first."""

    asset: AssetSummary
    versions: tuple[VersionSummary, ...]


class VersionDetail(Record):
    """A version with its lineage: the dataset it comes from, and what came of it."""

    version: VersionSummary
    dataset: VersionSummary | None
    endpoints: tuple[str, ...]
    derived: tuple[str, ...]


class Assets:
    """The assets of one kind."""

    kind: AssetKind

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._base = f"{API}/{self.kind}s"

    def list(self) -> list[AssetSummary]:
        """Return all of them, by name."""
        return [AssetSummary.model_validate(entry) for entry in self._transport.get(self._base)]

    def show(self, name: str) -> AssetDetail:
        """Return one with all its versions; NotFoundError if there is none."""
        return AssetDetail.model_validate(self._transport.get(f"{self._base}/{name}"))

    def version(self, reference: str) -> VersionDetail:
        """Return the version that `name@3`, `name@latest` or `name@alias` selects, with its lineage."""
        parsed = parse_reference(reference)
        path = f"{self._base}/{parsed.name}/versions/{parsed.selector}"
        return VersionDetail.model_validate(self._transport.get(path))

    def set_alias(self, name: str, alias: str, version: int, *, expect: int | None = None) -> AssetSummary:
        """Point an alias at a version; with `expect`, only if it points at that one now (0: nowhere).

        Raises:
            ConflictError: It points elsewhere.
        """
        body = {"version": version, "expect": expect}
        return AssetSummary.model_validate(self._transport.put(f"{self._base}/{name}/aliases/{alias}", body))


class Models(Assets):
    """The registered models."""

    kind = AssetKind.MODEL


class Datasets(Assets):
    """The ingested datasets."""

    kind = AssetKind.DATASET

    def rows(self, reference: str, split: str = "test", *, offset: int = 0, limit: int = 100) -> dict[str, list[Any]]:
        """Return rows of a split, column by column; at most 10,000 at a time."""
        parsed = parse_reference(reference)
        path = f"{self._base}/{parsed.name}/versions/{parsed.selector}/rows"
        return self._transport.get(path, split=split, offset=offset, limit=limit)
