"""The routes below /api/v1."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, PlainTextResponse

from lightmill.api.assets import asset_routes, page_response
from lightmill.control.service import ControlService
from lightmill.records.base import Record
from lightmill.records.endpoints import Endpoint
from lightmill.records.jobs import STEP_POINTS_MAX, EpochMetrics, Job, JobKind, StepMetrics
from lightmill.records.platform import PlatformStatus
from lightmill.records.replay import ReplaySpec
from lightmill.records.specs import parse_spec
from lightmill.records.tuning import TrialTable
from lightmill.training.watching.page import metrics_page

PREFIX = "/api/v1"


class JobRequest(Record):
    """A job to start; `folder` is where relative paths in `spec` begin, on the platform's machine.

    `resume` is a tuning job that it goes on from.
    """

    kind: JobKind
    spec: dict[str, Any]
    folder: str = "."
    resume: str | None = None


class ReplayRequest(Record):
    """A replay to start; `folder` is where the run's own modules lie, on the platform's machine."""

    folder: str = "."


def api_router(service: ControlService, version: str) -> APIRouter:
    """Return the control plane's routes."""
    router = APIRouter(prefix=PREFIX)

    @router.get("/status")
    def status() -> PlatformStatus:
        return service.status(version)

    job_routes(router, service)
    asset_routes(router, service.assets)
    _endpoint_routes(router, service)
    return router


def job_routes(router: APIRouter, service: ControlService) -> None:
    """Add the routes of jobs."""

    @router.post("/jobs", status_code=201)
    def submit(request: JobRequest) -> Job:
        match request.kind:
            case JobKind.INGEST:
                return service.submit_ingest(request.spec, request.folder)
            case JobKind.TUNE:
                return service.submit_tune(request.spec, request.folder, request.resume)
            case JobKind.REPLAY:
                return service.replay(parse_spec(ReplaySpec, request.spec, "The replay").run, request.folder)
            case _:
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

    @router.get("/jobs/{id}/metrics/steps")
    def job_steps(
        id: str,
        after: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=STEP_POINTS_MAX)] = STEP_POINTS_MAX,
    ) -> list[StepMetrics]:
        return service.job_steps(id, after, limit)

    @router.get("/jobs/{id}/metrics.html", response_class=HTMLResponse)
    def page_of_metrics(id: str) -> HTMLResponse:
        return page_response(metrics_page(service.job_history(id), id))

    @router.get("/jobs/{id}/logs", response_class=PlainTextResponse)
    def job_logs(id: str) -> str:
        return service.job_logs(id)

    @router.get("/jobs/{id}/trials")
    def job_trials(id: str) -> TrialTable:
        return service.trials(id)

    @router.post("/jobs/{id}/replay", status_code=201)
    def replay(id: str, request: ReplayRequest) -> Job:
        return service.replay(id, request.folder)

    @router.post("/jobs/{id}/cancel")
    def cancel_job(id: str) -> Job:
        return service.cancel_job(id)


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
