"""The server-wide routes of the Open Inference Protocol; liveness and readiness need no key."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter
from fastapi.responses import JSONResponse

from lightmill.control.service import ControlService
from lightmill.serving.protocols import oip


def server_router(service: ControlService, version: str) -> APIRouter:
    """Return the routes /v2, /v2/health/live and /v2/health/ready."""
    router = APIRouter()

    @router.get("/v2")
    def server_metadata() -> dict[str, Any]:
        return orjson.loads(oip.server_metadata("lightmill", version))

    @router.get("/v2/health/live")
    def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/v2/health/ready")
    def ready() -> JSONResponse:
        good = service.all_ready()
        return JSONResponse({"ready": good, "live": True}, 200 if good else 503)

    return router
