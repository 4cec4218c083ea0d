"""The routes of datasets and models."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import HTMLResponse
from pydantic import Field

from lightmill.control.assets import AssetService
from lightmill.datasets.profile_page import PAGE_POLICY, profile_page
from lightmill.records.annotations import Stage, TagsChanged, TextChanged
from lightmill.records.assets import (
    AliasMove,
    AssetDetail,
    AssetSummary,
    Lineage,
    VersionDetail,
    VersionSummary,
)
from lightmill.records.base import Record
from lightmill.records.dataset_versions import DatasetDiff, RowTrace
from lightmill.records.jobs import RunMetrics
from lightmill.records.profile import ProfileRecord
from lightmill.records.references import AssetKind
from lightmill.records.search import PAGE_MAX, QUERY_MAX, ROWS_MAX, SearchPage
from lightmill.training.watching.page import metrics_page

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]


class AliasRequest(Record):
    """Where an alias should point; with `expect`, only if it points at that version now (0: nowhere)."""

    version: int = Field(ge=1)
    expect: int | None = Field(default=None, ge=0)


class RollbackRequest(Record):
    """Where an alias should go back to; None for where it pointed before its last move."""

    to: int | None = Field(default=None, ge=1)


class StageRequest(Record):
    """A promotion; `required` are conditions on metrics, such as `test_accuracy>=0.9`."""

    stage: Stage
    required: tuple[str, ...] = ()


class EvaluationRequest(Record):
    """Measured quality on a split of a dataset version; `by` names who measured."""

    dataset: str
    split: Literal["train", "validation", "test"]
    metrics: dict[str, float] = Field(min_length=1)
    by: str = Field(min_length=1, max_length=200)


def asset_routes(router: APIRouter, service: AssetService) -> None:
    """Add the routes of both kinds."""
    for kind in (AssetKind.DATASET, AssetKind.MODEL):
        _looking(router, service, kind)
        _aliases(router, service, kind)
        _changing(router, service, kind)
    _of_models(router, service)
    _of_datasets(router, service)


def _looking(router: APIRouter, service: AssetService, kind: AssetKind) -> None:
    base = f"/{kind}s"

    @router.get(base, name=f"list {kind}s")
    def list_assets(deleted: bool = False, after: str = "", limit: Limit = PAGE_MAX) -> list[AssetSummary]:
        return service.page(kind, deleted=deleted, after=after, limit=limit)

    @router.get(f"/search{base}", name=f"search {kind}s")
    def search(
        query: Annotated[str, Query(max_length=QUERY_MAX)] = "",
        sort: str = "-created",
        limit: Limit = 50,
        after: str = "",
    ) -> SearchPage:
        return service.search(kind, query, sort, limit, after)

    @router.get(base + "/{name}", name=f"show {kind}")
    def show(name: str, deleted: bool = False) -> AssetDetail:
        return service.detail(kind, name, deleted=deleted)

    @router.get(base + "/{name}/versions/{selector}", name=f"show {kind} version")
    def show_version(name: str, selector: str) -> VersionDetail:
        return service.version_detail(kind, f"{name}@{selector}")

    @router.get(base + "/{name}/versions/{selector}/lineage", name=f"lineage of {kind} version")
    def lineage(name: str, selector: str) -> Lineage:
        return service.lineage(kind, f"{name}@{selector}")


def _aliases(router: APIRouter, service: AssetService, kind: AssetKind) -> None:
    base = f"/{kind}s" + "/{name}/aliases/{alias}"

    @router.put(base, name=f"set {kind} alias")
    def set_alias(name: str, alias: str, request: AliasRequest) -> AssetSummary:
        return service.set_alias(kind, name, alias, request.version, request.expect)

    @router.get(base, name=f"history of {kind} alias")
    def alias_history(name: str, alias: str) -> list[AliasMove]:
        return service.alias_history(kind, name, alias)

    @router.post(base + "/rollback", name=f"roll back {kind} alias")
    def roll_back(name: str, alias: str, request: RollbackRequest) -> AssetSummary:
        return service.roll_back(kind, name, alias, request.to)


def _changing(router: APIRouter, service: AssetService, kind: AssetKind) -> None:
    base = f"/{kind}s" + "/{name}/versions/{selector}"

    @router.put(base + "/tags", name=f"tag {kind} version")
    def tag(name: str, selector: str, change: TagsChanged) -> VersionDetail:
        return service.annotate(kind, f"{name}@{selector}", change)

    @router.put(base + "/text", name=f"describe {kind} version")
    def describe(name: str, selector: str, change: TextChanged) -> VersionDetail:
        return service.annotate(kind, f"{name}@{selector}", change)

    @router.delete(f"/{kind}s" + "/{name}/versions/{version}", name=f"delete {kind} version")
    def delete(name: str, version: Annotated[int, Path(ge=1)], reason: str) -> VersionSummary:
        return service.delete(kind, name, version, reason)


def _of_models(router: APIRouter, service: AssetService) -> None:
    base = "/models/{name}/versions/{selector}"

    @router.put(base + "/stage")
    def promote(name: str, selector: str, request: StageRequest) -> VersionDetail:
        return service.promote(f"{name}@{selector}", request.stage, request.required)

    @router.post(base + "/evaluations", status_code=201)
    def evaluate(name: str, selector: str, request: EvaluationRequest) -> VersionDetail:
        return service.evaluate(f"{name}@{selector}", request.dataset, request.split, request.metrics, request.by)

    @router.get(base + "/metrics")
    def metrics(name: str, selector: str) -> RunMetrics:
        return service.run_metrics(f"{name}@{selector}")

    @router.get(base + "/metrics.html", response_class=HTMLResponse)
    def page_of_metrics(name: str, selector: str) -> HTMLResponse:
        return page_response(metrics_page(service.run_metrics(f"{name}@{selector}"), f"{name}@{selector}"))


def page_response(page: str) -> HTMLResponse:
    """Return a page whose policy forbids scripts and requests."""
    headers = {"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(page, headers=headers)


def _of_datasets(router: APIRouter, service: AssetService) -> None:
    @router.get("/datasets/{name}/versions/{selector}/rows")
    def rows(
        name: str,
        selector: str,
        split: str = "test",
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=ROWS_MAX)] = 100,
    ) -> dict[str, list[Any]]:
        return service.rows(f"{name}@{selector}", split, offset, limit).to_pydict()

    @router.get("/datasets/{name}/versions/{selector}/row")
    def row(
        name: str,
        selector: str,
        row_id: int | None = None,
        split: str = "train",
        position: Annotated[int, Query(ge=0)] = 0,
    ) -> RowTrace:
        return service.row(f"{name}@{selector}", row_id, split, position)

    @router.get("/datasets/{name}/versions/{selector}/diff")
    def diff(name: str, selector: str, new: str) -> DatasetDiff:
        return service.diff(f"{name}@{selector}", new)

    @router.get("/datasets/{name}/versions/{selector}/croissant")
    def croissant(name: str, selector: str) -> dict[str, Any]:
        return json.loads(service.describe_dataset(f"{name}@{selector}")[0])

    @router.get("/datasets/{name}/versions/{selector}/card")
    def card(name: str, selector: str) -> str:
        return service.describe_dataset(f"{name}@{selector}")[1]

    @router.get("/datasets/{name}/versions/{selector}/profile")
    def profile(name: str, selector: str) -> ProfileRecord:
        return service.profile(f"{name}@{selector}")

    @router.get("/datasets/{name}/versions/{selector}/profile.html", response_class=HTMLResponse)
    def page_of_profile(name: str, selector: str) -> HTMLResponse:
        return page_response(profile_page(service.profile(f"{name}@{selector}")))
