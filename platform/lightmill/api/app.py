"""The FastAPI application of the control plane.

Every error is `{"error": text, "type": class name}` with the status of its class, in the form that inference
clients read too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lightmill.api.gate import Checker, Gate
from lightmill.api.keys import key_router
from lightmill.api.metrics import metrics_router
from lightmill.api.routes import PREFIX, api_router
from lightmill.api.server import server_router
from lightmill.control.access import KeyService
from lightmill.control.service import ControlService
from lightmill.errors import LightmillError

Keys = Callable[[], Checker]


def build_app(
    service: ControlService, keys: Keys, version: str, key_service: KeyService, metrics: Callable[[], str]
) -> FastAPI:
    """Return the application; `keys` gives who is known at present, `metrics` the text of all metrics."""
    app = FastAPI(title="Lightmill", version=version, description="The control plane of a Lightmill platform.")
    handle_errors(app)
    app.add_middleware(Gate, keys=keys, prefix=PREFIX)
    app.include_router(api_router(service, version))
    app.include_router(key_router(key_service))
    app.include_router(metrics_router(metrics))
    app.include_router(server_router(service, version))
    return app


def handle_errors(app: FastAPI) -> None:
    """Give every error the form and the status of its class."""
    app.add_exception_handler(LightmillError, _lightmill_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


def _body(message: str, kind: str) -> dict[str, Any]:
    return {"error": message, "type": kind}


async def _lightmill_error(request: Request, exc: Exception) -> JSONResponse:
    if not isinstance(exc, LightmillError):
        raise exc
    headers = {"WWW-Authenticate": "Bearer"} if exc.status == 401 else None
    return JSONResponse(_body(exc.message, type(exc).__name__), exc.status, headers=headers)


async def _invalid(request: Request, exc: Exception) -> JSONResponse:
    if not isinstance(exc, RequestValidationError):
        raise exc
    first = exc.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return JSONResponse(_body(f"{field}: {first['msg']}.", "RequestError"), 400)


async def _http_error(request: Request, exc: Exception) -> JSONResponse:
    if not isinstance(exc, HTTPException):
        raise exc
    if exc.status_code == 404 and request.url.path.startswith("/v2/models/"):
        name = request.url.path.removeprefix("/v2/models/").split("/", 1)[0]
        message = f"No endpoint {name!r} answers. List what there is with `lightmill endpoints list`."
        return JSONResponse(_body(message, "NotFoundError"), 404)
    message = f"{exc.detail}: {request.method} {request.url.path}. The routes are listed at /docs."
    return JSONResponse(_body(message, "RequestError"), exc.status_code, headers=exc.headers)


async def _unexpected(request: Request, exc: Exception) -> JSONResponse:
    return JSONResponse(_body("The platform failed on this request; its log says why.", "LightmillError"), 500)
