"""What can be asked of datasets and models, one method an operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
from pydantic import ValidationError

from lightmill.catalog import Catalog
from lightmill.datasets.described import described
from lightmill.datasets.diff import diff
from lightmill.datasets.exporting import describe_sealed
from lightmill.datasets.profiles import read_profile
from lightmill.datasets.reading import read_rows
from lightmill.datasets.tracing import trace_position, trace_row
from lightmill.errors import ConflictError, RequestError
from lightmill.records.annotations import Change, Evaluated, Evaluation, Stage, StageChanged
from lightmill.records.assets import (
    AliasMove,
    AssetDetail,
    AssetSummary,
    DatasetCard,
    Lineage,
    LineageChild,
    VersionDetail,
    VersionSummary,
)
from lightmill.records.base import now_iso
from lightmill.records.dataset_versions import DatasetDiff, RowTrace
from lightmill.records.jobs import RunMetrics
from lightmill.records.profile import ProfileRecord
from lightmill.records.references import AssetKind, VersionId, parse_reference
from lightmill.records.search import (
    PAGE_MAX,
    ROWS_MAX,
    Comparison,
    SearchPage,
    parse_comparison,
    parse_cursor,
    parse_order,
    parse_query,
)
from lightmill.registry import OpenVersion, Registry, RegistryLocation
from lightmill.registry.promotion import decide
from lightmill.training.watching.history import read_history


class AssetService:
    """The operations on the datasets and models of one workspace.

    Args:
        catalog: The index.
        registry: The store.
        location: Where the registry is, for workers.
        required: What must hold of every version that is promoted to production.
        wake: Starts a round of the control loop.
    """

    def __init__(
        self,
        catalog: Catalog,
        registry: Registry,
        location: RegistryLocation,
        required: Sequence[Comparison],
        wake: Callable[[], None],
    ) -> None:
        self._catalog = catalog
        self._registry = registry
        self._location = location
        self._required = tuple(required)
        self._wake = wake

    # -- looking ------------------------------------------------------------

    def page(
        self, kind: AssetKind, *, deleted: bool = False, after: str = "", limit: int = PAGE_MAX
    ) -> list[AssetSummary]:
        """Return a page of assets by name; `after` is the last name of the page before."""
        return self._catalog.versions.assets(kind, deleted=deleted, after=after, limit=min(limit, PAGE_MAX))

    def detail(self, kind: AssetKind, name: str, *, deleted: bool = False) -> AssetDetail:
        """Return an asset with its versions, newest first; NotFoundError if there is none."""
        asset = self._catalog.versions.asset(kind, name)
        return AssetDetail(asset=asset, versions=tuple(self._catalog.versions.list(kind, name, deleted=deleted)))

    def version(self, kind: AssetKind, reference: str) -> VersionSummary:
        """Return the version that a reference selects; NotFoundError if there is none."""
        id = self._registry.resolve(kind, parse_reference(reference))
        return self._catalog.versions.get(kind, id.name, id.seq)

    def version_detail(self, kind: AssetKind, reference: str) -> VersionDetail:
        """Return a version with what is said of it, what it comes from and what came of it."""
        version = self.version(kind, reference)
        return VersionDetail(
            version=version,
            notes=self._catalog.notes.get(kind, version.id.name, version.id.seq),
            dataset=self._listed(version.provenance.dataset),
            endpoints=self._endpoints(version.id),
            derived=tuple(f"{made.id.kind} {made.id}" for made in self._catalog.versions.derived_from(version.id)),
        )

    def lineage(self, kind: AssetKind, reference: str) -> Lineage:
        """Return what a version comes from, back to the source files, and what came of it, on to endpoints."""
        version = self.version(kind, reference)
        dataset = version if kind is AssetKind.DATASET else self._listed(version.provenance.dataset)
        sources = DatasetCard.model_validate(dataset.card).sources if dataset and dataset.card else ()
        children = self._catalog.versions.derived_from(version.id)
        return Lineage(
            version=version,
            dataset=None if kind is AssetKind.DATASET else dataset,
            base=self._listed(version.provenance.base),
            sources=sources,
            endpoints=self._endpoints(version.id),
            children=tuple(LineageChild(id=made.id, endpoints=self._endpoints(made.id)) for made in children),
        )

    def search(self, kind: AssetKind, query: str, sort: str, limit: int, after: str = "") -> SearchPage:
        """Return a page of the versions that fulfil a query; `records.search` has the grammar.

        Raises:
            RequestError: The query, the order or the beginning of the page is malformed.
        """
        return self._catalog.search.versions(
            kind,
            parse_query(query),
            parse_order(sort),
            limit=min(limit, PAGE_MAX),
            after=parse_cursor(after) if after else None,
        )

    def rows(self, reference: str, split: str, offset: int, limit: int) -> pa.Table:
        """Return rows of a dataset version in its stored columns; limit is at most ROWS_MAX."""
        version = self._dataset(reference)
        return read_rows(version, self._location, split, offset, min(limit, ROWS_MAX))

    def row(self, reference: str, row_id: int | None, split: str, position: int) -> RowTrace:
        """Return a row of a dataset version by its id, or by its place in a split, with where it comes from."""
        version = self._dataset(reference)
        return trace_position(version, split, position) if row_id is None else trace_row(version, row_id)

    def diff(self, old: str, new: str) -> DatasetDiff:
        """Return how two dataset versions differ, by manifest and profile; NotFoundError if there is no such one."""
        return diff(described(self._dataset(old)), described(self._dataset(new)))

    def describe_dataset(self, reference: str) -> tuple[str, str]:
        """Return the Croissant metadata and the card of a dataset version, as they are printed."""
        version = self._dataset(reference)
        return describe_sealed(version, self._registry.notes(version.id))

    def _dataset(self, reference: str) -> OpenVersion:
        return self._registry.open(self._registry.resolve(AssetKind.DATASET, parse_reference(reference)))

    def profile(self, reference: str) -> ProfileRecord:
        """Return the profile of a dataset version; NotFoundError if there is none of either."""
        return read_profile(self._dataset(reference))

    def run_metrics(self, reference: str) -> RunMetrics:
        """Return the metrics that were sealed with a model's version; NotFoundError if none were."""
        return read_history(self._registry.open(self._registry.resolve(AssetKind.MODEL, parse_reference(reference))))

    def _listed(self, id: VersionId | None) -> VersionSummary | None:
        return self._catalog.versions.find(id) if id else None

    def _endpoints(self, id: VersionId) -> tuple[str, ...]:
        return tuple(e.name for e in self._catalog.endpoints.list() if e.version == id)

    # -- aliases ------------------------------------------------------------

    def set_alias(self, kind: AssetKind, name: str, alias: str, version: int, expect: int | None) -> AssetSummary:
        """Move an alias; every endpoint that follows it rolls.

        Raises:
            RequestError: The alias has a malformed name, or is `latest`.
            NotFoundError: There is no such version, or it was deleted.
            ConflictError: It does not point at the version `expect`.
        """
        self._registry.set_alias(kind, name, alias, version, expect=expect)
        self._wake()
        return self._catalog.versions.asset(kind, name)

    def alias_history(self, kind: AssetKind, name: str, alias: str) -> list[AliasMove]:
        """Return every move of an alias, oldest first; NotFoundError if there is no such alias."""
        return self._registry.alias_history(kind, name, alias)

    def roll_back(self, kind: AssetKind, name: str, alias: str, to: int | None) -> AssetSummary:
        """Move an alias back to where it pointed before, or to `to`; errors as `Registry.roll_back`."""
        self._registry.roll_back(kind, name, alias, to=to)
        self._wake()
        return self._catalog.versions.asset(kind, name)

    # -- changing what is said ----------------------------------------------

    def annotate(self, kind: AssetKind, reference: str, change: Change) -> VersionDetail:
        """Say something of a version; errors as `Registry.annotate`."""
        self._registry.annotate(self._registry.resolve(kind, parse_reference(reference)), change)
        return self.version_detail(kind, reference)

    def evaluate(self, reference: str, dataset: str, split: str, metrics: dict[str, float], by: str) -> VersionDetail:
        """Add an evaluation of a model version on a split of a dataset version.

        Raises:
            RequestError: A metric has a malformed name, there is none, or the split is not one.
            NotFoundError: There is no such model or dataset version.
        """
        rows = self._registry.resolve(AssetKind.DATASET, parse_reference(dataset))
        said = {"dataset": rows, "split": split, "metrics": metrics, "created": now_iso(), "by": by}
        try:
            evaluation = Evaluation.model_validate(said)
        except ValidationError as exc:
            raise RequestError(f"This is no evaluation: {exc.errors()[0]['msg']}.") from exc
        return self.annotate(AssetKind.MODEL, reference, Evaluated(evaluation=evaluation))

    def promote(self, reference: str, stage: Stage, required: Sequence[str] = ()) -> VersionDetail:
        """Move a model version to a stage; what the workspace requires holds in addition to `required`.

        The evidence is read from the signed log, not from the catalog.

        Raises:
            RequestError: A required condition is malformed.
            ConflictError: Evidence is missing; the message says which.
        """
        id = self._registry.resolve(AssetKind.MODEL, parse_reference(reference))
        notes = self._registry.notes(id)
        conditions = (*self._required, *(parse_comparison(text) for text in required))
        decision = decide(notes, stage, conditions)
        if decision.missing:
            raise ConflictError(f"{id} cannot move to {stage}: it needs {'; and '.join(decision.missing)}.")
        if notes.stage is not stage:
            asked = tuple(str(c) for c in conditions) if stage is Stage.PRODUCTION else ()
            self._registry.annotate(id, StageChanged(stage=stage, required=asked, evidence=decision.evidence))
        return self.version_detail(AssetKind.MODEL, str(id))

    def delete(self, kind: AssetKind, name: str, version: int, reason: str) -> VersionSummary:
        """Delete a version for ever; errors as `Registry.delete`."""
        self._registry.delete(kind, name, version, reason)
        return self._catalog.versions.get(kind, name, version)
