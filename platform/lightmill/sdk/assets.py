"""Datasets and models: what there is, where it comes from, what is said of it, where aliases point."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightmill.records.annotations import Stage
from lightmill.records.assets import (
    AliasMove,
    AssetDetail,
    AssetSummary,
    Lineage,
    VersionDetail,
    VersionSummary,
)
from lightmill.records.dataset_versions import DatasetDiff, RowTrace
from lightmill.records.jobs import RunMetrics
from lightmill.records.profile import ProfileRecord
from lightmill.records.references import AssetKind, parse_reference
from lightmill.records.search import PAGE_MAX, SearchPage
from lightmill.sdk.cards import render_card
from lightmill.sdk.curves import MetricsView
from lightmill.sdk.profiles import ProfileView
from lightmill.sdk.transport import Transport, path


class Assets:
    """The assets of one kind. A `reference` is `name`, `name@3`, `name@latest` or `name@alias`."""

    kind: AssetKind

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._noun = f"{self.kind}s"

    # -- looking ------------------------------------------------------------

    def list(self, *, deleted: bool = False) -> builtins.list[AssetSummary]:
        """Return all of them, by name; with `deleted` also those of which no version is left."""
        found: builtins.list[AssetSummary] = []
        while True:
            after = found[-1].name if found else ""
            answer = self._transport.get(path(self._noun), deleted=deleted, after=after, limit=PAGE_MAX)
            found += [AssetSummary.model_validate(entry) for entry in answer]
            if len(answer) < PAGE_MAX:
                return found

    def show(self, name: str, *, deleted: bool = False) -> AssetDetail:
        """Return one with its versions, with `deleted` also the deleted ones; NotFoundError if there is none."""
        return AssetDetail.model_validate(self._transport.get(path(self._noun, name), deleted=deleted))

    def version(self, reference: str) -> VersionDetail:
        """Return the version that a reference selects, with what is said of it and its lineage."""
        return VersionDetail.model_validate(self._transport.get(self._path(reference)))

    def lineage(self, reference: str) -> Lineage:
        """Return what a version comes from, back to source files, and what came of it, on to endpoints."""
        return Lineage.model_validate(self._transport.get(self._path(reference, "lineage")))

    def search(self, query: str = "", *, sort: str = "-created", limit: int = 50, after: str = "") -> SearchPage:
        """Return a page of versions, such as those of `metrics.test_accuracy>=0.96 tag:team=vision`.

        `lightmill.records.search` has the grammar; `after` is the `next` of the page before.

        Raises:
            RequestError: The query or the order is malformed.
        """
        found = self._transport.get(path("search", self._noun), query=query, sort=sort, limit=limit, after=after)
        return SearchPage.model_validate(found)

    def search_all(self, query: str = "", *, sort: str = "-created") -> Iterator[VersionSummary]:
        """Yield all versions that fulfil a query, page by page; errors as `search`."""
        page = self.search(query, sort=sort, limit=PAGE_MAX)
        yield from page.versions
        while page.next:
            page = self.search(query, sort=sort, limit=PAGE_MAX, after=page.next)
            yield from page.versions

    # -- aliases ------------------------------------------------------------

    def set_alias(self, name: str, alias: str, version: int, *, expect: int | None = None) -> AssetSummary:
        """Point an alias at a version; with `expect`, only if it points at that one now (0: nowhere).

        Raises:
            ConflictError: It points elsewhere.
        """
        body = {"version": version, "expect": expect}
        return AssetSummary.model_validate(self._transport.put(path(self._noun, name, "aliases", alias), body))

    def alias_history(self, name: str, alias: str) -> builtins.list[AliasMove]:
        """Return every move of an alias, oldest first; NotFoundError if there is no such alias."""
        found = self._transport.get(path(self._noun, name, "aliases", alias))
        return [AliasMove.model_validate(entry) for entry in found]

    def roll_back(self, name: str, alias: str, *, to: int | None = None) -> AssetSummary:
        """Move an alias back to where it pointed before its last move, or to version `to`, where it once pointed.

        Raises:
            NotFoundError: It never pointed there, or that version was deleted.
            ConflictError: Somebody else moves it at the same moment.
        """
        answer = self._transport.post(path(self._noun, name, "aliases", alias, "rollback"), {"to": to})
        return AssetSummary.model_validate(answer)

    # -- what is said of a version ------------------------------------------

    def tag(self, reference: str, set: Mapping[str, str] | None = None, unset: Sequence[str] = ()) -> VersionDetail:
        """Set and remove tags; RequestError if a name or value cannot be a tag."""
        body = {"set": dict(set or {}), "unset": builtins.list(unset)}
        return VersionDetail.model_validate(self._transport.put(self._path(reference, "tags"), body))

    def describe(
        self,
        reference: str,
        *,
        description: str | None = None,
        intended_use: str | None = None,
        limitations: str | None = None,
    ) -> VersionDetail:
        """Say in Markdown what a version is, what it is for and what it is not; None leaves a part as it is."""
        body = {"description": description, "intended_use": intended_use, "limitations": limitations}
        return VersionDetail.model_validate(self._transport.put(self._path(reference, "text"), body))

    def delete(self, name: str, version: int, reason: str) -> VersionSummary:
        """Delete a version for ever; the reason is signed and kept.

        Raises:
            ConflictError: An alias or an endpoint uses it; the message names them.
        """
        answer = self._transport.delete(path(self._noun, name, "versions", str(version)), reason=reason)
        return VersionSummary.model_validate(answer)

    def _path(self, reference: str, *more: str) -> str:
        parsed = parse_reference(reference)
        return path(self._noun, parsed.name, "versions", parsed.selector, *more)


class Models(Assets):
    """The registered models."""

    kind = AssetKind.MODEL

    def evaluate(
        self, reference: str, *, dataset: str, metrics: Mapping[str, float], by: str, split: str = "test"
    ) -> VersionDetail:
        """Add an evaluation on a split of a dataset version, which a promotion may rely on; `by` says who measured."""
        body = {"dataset": dataset, "split": split, "metrics": dict(metrics), "by": by}
        return VersionDetail.model_validate(self._transport.post(self._path(reference, "evaluations"), body))

    def promote(self, reference: str, stage: str, *, required: Sequence[str] = ()) -> VersionDetail:
        """Move a version to a stage; `required` are conditions such as `test_accuracy>=0.9`.

        Raises:
            ConflictError: Evidence is missing; the message says which.
        """
        body = {"stage": Stage(stage), "required": builtins.list(required)}
        return VersionDetail.model_validate(self._transport.put(self._path(reference, "stage"), body))

    def card(self, reference: str) -> str:
        """Return the model card of a version as Markdown."""
        return render_card(self.version(reference), self.lineage(reference))

    def metrics(self, reference: str) -> MetricsView:
        """Return the metrics of the run that made a version, which are sealed with it; NotFoundError if none are."""
        record = RunMetrics.model_validate(self._transport.get(self._path(reference, "metrics")))
        page = self._transport.send("GET", self._path(reference, "metrics.html")).text
        return MetricsView(record=record, title=reference, page=page)


class Datasets(Assets):
    """The ingested datasets."""

    kind = AssetKind.DATASET

    def rows(self, reference: str, split: str = "test", *, offset: int = 0, limit: int = 100) -> dict[str, Any]:
        """Return rows of a split, column by column; at most 10,000 at a time."""
        return self._transport.get(self._path(reference, "rows"), split=split, offset=offset, limit=limit)

    def row(self, reference: str, row_id: int | None = None, *, split: str = "train", position: int = 0) -> RowTrace:
        """Return a row with the place in the sources that it was read from: by its id, or by its place in a split.

        Raises:
            NotFoundError: The version holds no such row.
        """
        named = {"split": split, "position": position} if row_id is None else {"row_id": row_id}
        return RowTrace.model_validate(self._transport.get(self._path(reference, "row"), **named))

    def diff(self, old: str, new: str) -> DatasetDiff:
        """Return how two versions differ: schema, counts, distributions, sources, preparation; no row is read."""
        return DatasetDiff.model_validate(self._transport.get(self._path(old, "diff"), new=new))

    def card(self, reference: str) -> str:
        """Return the card of a version: YAML in front, then Markdown."""
        return self._transport.get(self._path(reference, "card"))

    def croissant(self, reference: str) -> dict[str, Any]:
        """Return the Croissant 1.1 metadata of a version; its digests are of the encrypted files on the store."""
        return self._transport.get(self._path(reference, "croissant"))

    def profile(self, reference: str) -> ProfileView:
        """Return the profile of a version, which a notebook shows as a page; NotFoundError if it has none."""
        record = ProfileRecord.model_validate(self._transport.get(self._path(reference, "profile")))
        page = self._transport.send("GET", self._path(reference, "profile.html")).text
        return ProfileView(record=record, page=page)
