"""The routes of an endpoint's candidates."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from lightmill.api.routes import PREFIX
from lightmill.control.traffic_service import SHADOWS_MOST, TrafficService
from lightmill.records.base import Record
from lightmill.records.rollouts import ShadowDifference, TrafficReport


class PromoteRequest(Record):
    """Which candidate to promote; empty for the canary, or the only one."""

    candidate: str = ""


def traffic_router(service: TrafficService) -> APIRouter:
    """Return the routes below /api/v1/endpoints/{name}."""
    router = APIRouter(prefix=PREFIX + "/endpoints/{name}")

    @router.get("/traffic")
    def show_traffic(name: str) -> TrafficReport:
        return service.report(name)

    @router.post("/promote")
    def promote_candidate(name: str, request: PromoteRequest) -> TrafficReport:
        return service.promote(name, request.candidate)

    @router.post("/rollback")
    def roll_back_endpoint(name: str) -> TrafficReport:
        return service.roll_back(name)

    @router.get("/shadows")
    def list_shadows(name: str, limit: Annotated[int, Query(ge=1, le=SHADOWS_MOST)] = 50) -> list[ShadowDifference]:
        return service.shadows(name, limit)

    return router
