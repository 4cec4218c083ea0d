"""The routes below /api/v1."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse
from pydantic import Field

from lightmill.control.service import ControlService, Lineage, PlatformStatus
from lightmill.records.assets import AssetSummary, VersionSummary
from lightmill.records.base import Record
from lightmill.records.endpoints import Endpoint
from lightmill.records.jobs import EpochMetrics, Job, JobKind
from lightmill.records.references import AssetKind

PREFIX = "/api/v1"


class JobRequest(Record):
    """A job to start; `folder` is where relative paths in `spec` begin, on the platform's machine."""

    kind: JobKind
    spec: dict[str, Any]
    folder: str = "."


class AliasRequest(Record):
    """Where an alias should point; with `expect`, only if it points at that version now (0: nowhere)."""

    version: int = Field(ge=1)
    expect: int | None = Field(default=None, ge=0)


class AssetDetail(Record):
    """An asset with all its versions, newest first."""

    asset: AssetSummary
    versions: tuple[VersionSummary, ...]


def api_router(service: ControlService, version: str) -> APIRouter:
    """Return the control plane's routes."""
    router = APIRouter(prefix=PREFIX)

    @router.get("/status")
    def status() -> PlatformStatus:
        return service.status(version)

    _job_routes(router, service)
    _asset_routes(router, service)
    _endpoint_routes(router, service)
    return router


def _job_routes(router: APIRouter, service: ControlService) -> None:
    @router.post("/jobs", status_code=201)
    def submit(request: JobRequest) -> Job:
        if request.kind is JobKind.INGEST:
            return service.submit_ingest(request.spec, request.folder)
        return service.submit_train(request.spec, request.folder)

    @router.get("/jobs")
    def list_jobs(limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> list[Job]:
        return service.jobs(limit)

    @router.get("/jobs/{id}")
    def show_job(id: str) -> Job:
        return service.job(id)

    @router.get("/jobs/{id}/metrics")
    def job_metrics(id: str) -> list[EpochMetrics]:
        return service.job_metrics(id)

    @router.get("/jobs/{id}/logs", response_class=PlainTextResponse)
    def job_logs(id: str) -> str:
        return service.job_logs(id)

    @router.post("/jobs/{id}/cancel")
    def cancel_job(id: str) -> Job:
        return service.cancel_job(id)


def _asset_routes(router: APIRouter, service: ControlService) -> None:
    def add(kind: AssetKind) -> None:
        base = f"/{kind}s"

        @router.get(base, name=f"list {kind}s")
        def list_assets() -> list[AssetSummary]:
            return service.assets(kind)

        @router.get(base + "/{name}", name=f"show {kind}")
        def show(name: str) -> AssetDetail:
            return AssetDetail(asset=service.asset(kind, name), versions=tuple(service.versions(kind, name)))

        @router.get(base + "/{name}/versions/{selector}", name=f"show {kind} version")
        def show_version(name: str, selector: str) -> Lineage:
            return service.lineage(kind, f"{name}@{selector}")

        @router.put(base + "/{name}/aliases/{alias}", name=f"set {kind} alias")
        def set_alias(name: str, alias: str, request: AliasRequest) -> AssetSummary:
            return service.set_alias(kind, name, alias, request.version, request.expect)

    add(AssetKind.DATASET)
    add(AssetKind.MODEL)

    @router.get("/datasets/{name}/versions/{selector}/rows")
    def rows(
        name: str,
        selector: str,
        split: str = "test",
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    ) -> dict[str, list[Any]]:
        return service.rows(f"{name}@{selector}", split, offset, limit).to_pydict()


def _endpoint_routes(router: APIRouter, service: ControlService) -> None:
    @router.put("/endpoints/{name}")
    def deploy(name: str, spec: dict[str, Any]) -> Endpoint:
        return service.deploy({**spec, "name": name})

    @router.get("/endpoints")
    def list_endpoints() -> list[Endpoint]:
        return service.endpoints()

    @router.get("/endpoints/{name}")
    def show_endpoint(name: str) -> Endpoint:
        return service.endpoint(name)

    @router.delete("/endpoints/{name}")
    def delete_endpoint(name: str) -> Endpoint:
        return service.delete_endpoint(name)
