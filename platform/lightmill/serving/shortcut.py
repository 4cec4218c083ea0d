"""The way of an endpoint's requests past what Ray Serve does for each: two tasks that watch the client, a context, ids.

Serve lets middleware stand before its replicas' HTTP servers (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`). Ours hands
requests to the endpoint that lives in this process straight to it, and keeps Serve's books: requests under way, which
scaling and draining go by, and its metrics of requests. Whatever is not the endpoint's goes on to Serve, as does
everything where Serve's books are not where Ray 2.60 has them.
"""

from __future__ import annotations

import logging
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.middleware import Middleware

    from lightmill.serving.front import App, Receive, Scope, Send

logger = logging.getLogger("lightmill.serving")
_endpoints: list[tuple[str, App]] = []


def offer(prefix: str, app: App) -> None:
    """Answer requests to `prefix` and below by `app`, the front of this process's endpoint."""
    _endpoints[:] = [(prefix, app)]


def middlewares() -> list[Middleware]:
    """Return what Serve puts before the HTTP server of each replica."""
    from starlette.middleware import Middleware

    return [Middleware(Shortcut)]


class Shortcut:
    """Middleware: the endpoint's own requests go to it, others on."""

    def __init__(self, app: App) -> None:
        """Stand before Serve's own application, in a replica's process or in another."""
        self._app = app
        self._books = _Books.of(app) if _endpoints else None
        if self._books is None and _endpoints:
            logger.warning("requests take Ray Serve's own, slower way: its replica is not as this platform knows it")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        books = self._books
        if books is None or scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        prefix, endpoint = _endpoints[0]
        path: str = scope["path"]
        if not path.startswith(prefix) or path[len(prefix) : len(prefix) + 1] not in ("", "/"):
            await self._app(scope, receive, send)
            return
        scope["root_path"] = prefix
        started = perf_counter()
        books.began()
        try:
            await endpoint(scope, receive, send)
        finally:
            books.ended(prefix, scope, (perf_counter() - started) * 1000)


class _Books:
    """What Serve counts of a replica's requests (ray/serve/_private/replica.py, `_direct_ingress_asgi`)."""

    def __init__(self, replica: Any) -> None:
        from ray.serve._private.common import RequestMetadata, RequestProtocol

        from lightmill.serving.front import PHASES

        self._phases = PHASES
        self._metrics = replica._metrics_manager
        self._application = replica._deployment_id.app_name
        self._deployment = replica._deployment_id.name
        self._protocol = RequestProtocol.HTTP
        self._request = RequestMetadata(
            request_id="", internal_request_id="", is_direct_ingress=True, _request_protocol=RequestProtocol.HTTP
        )

    @classmethod
    def of(cls, app: Any) -> _Books | None:
        """Return the books of the replica that an application belongs to; None if they are not found."""
        for _ in range(8):
            replica = getattr(app, "__self__", None)
            if replica is not None and hasattr(replica, "_metrics_manager"):
                try:
                    if replica._user_callable_wrapper._run_user_code_in_separate_thread:
                        return None
                    books = cls(replica)
                    books.began()
                    books.over()
                except (AttributeError, ImportError, TypeError):
                    return None
                return books
            app = getattr(app, "_app", None) or getattr(app, "app", None)
        return None

    def began(self) -> None:
        """Count a request that is under way."""
        self._metrics.inc_num_ongoing_requests(self._request)

    def over(self) -> None:
        """Count it no more."""
        self._metrics.dec_num_ongoing_requests(self._request)

    def ended(self, route: str, scope: Scope, latency_ms: float) -> None:
        """Count it no more, and tell Serve's metrics of it."""
        self.over()
        phases = scope.get(self._phases)
        status = 500 if phases is None else phases.status
        self._metrics.record_request_metrics(route=route, latency_ms=latency_ms, is_error=status >= 500)
        self._metrics.record_ingress_request_metrics(
            protocol=self._protocol,
            method=scope["method"],
            route=route,
            app_name=self._application,
            deployment_name=self._deployment,
            latency_ms=latency_ms,
            is_error=status >= 400,
            status_code=str(status),
        )
