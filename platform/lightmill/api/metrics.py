"""The route that Prometheus reads; a key with the scope `metrics` is enough for it."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from lightmill.api.gate import METRICS_ROUTE
from lightmill.api.routes import PREFIX

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_router(metrics: Callable[[], str]) -> APIRouter:
    """Return the route /api/v1/metrics; `metrics` gives the text."""
    router = APIRouter(prefix=PREFIX)

    @router.get(METRICS_ROUTE, response_class=PlainTextResponse)
    def read_metrics() -> PlainTextResponse:
        return PlainTextResponse(metrics(), media_type=CONTENT_TYPE)

    return router
