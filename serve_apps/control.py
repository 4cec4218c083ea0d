"""The control application: HTTP API, job queue and reconcile loop, as one Serve deployment.

Run on a node of the cluster: python serve_apps/control.py     (`lightmill up` does)
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from lightmill.errors import LightmillError
from lightmill.settings import Settings
from lightmill.telemetry import configure_logging

NAME = "control"
CONTROL_CPUS = 0.25
ON_THE_HEAD = "node:__internal_head__"  # the catalog, Ray's job API and HAProxy are there


class Control:
    """The deployment class; Ray asks it for its ASGI application after the constructor."""

    def __init__(self) -> None:
        from lightmill.serving.transport import keep_transport_private
        from lightmill.wiring.control import ControlPlane

        configure_logging()
        settings = Settings.read()
        keep_transport_private(settings.loopback)
        self._plane = ControlPlane(settings)

    def __serve_build_asgi_app__(self) -> object:
        """Return the FastAPI application."""
        return self._plane.app


def serving_host(settings: Settings) -> str:
    """Return the address that replicas listen on: loopback, or every interface of a cluster's nodes.

    HAProxy reaches a replica on its own node at 127.0.0.1 and one elsewhere at that node's address
    (ray/serve/_private/haproxy.py, `_target_to_server`), so no single address would do. HAProxy's own ports stay
    on the platform's address: see lightmill.launch.haproxy.
    """
    return settings.host if settings.loopback else "0.0.0.0"  # noqa: S104


def main() -> int:
    """Deploy the control application on the Ray that the environment names."""
    settings = Settings.read()
    os.environ.update(settings.node_environment())
    from ray import serve

    from lightmill.control.ray_session import session

    try:
        with session(os.environ.get("RAY_ADDRESS", "auto")):
            listen = {"host": serving_host(settings), "port": settings.http_port}
            serve.start(proxy_location="HeadOnly", http_options=listen)
            deployment: Any = serve.deployment(serve.ingress()(Control))
            options = deployment.options(
                name=NAME,
                num_replicas=1,
                max_ongoing_requests=100,
                ray_actor_options={"num_cpus": CONTROL_CPUS, "resources": {ON_THE_HEAD: 0.001}},
            )
            serve.run(options.bind(), name=NAME, route_prefix="/")
    except LightmillError as exc:
        print(json.dumps({"error": exc.message, "type": type(exc).__name__}))
        return exc.exit_code
    print(json.dumps({"url": settings.base_url}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
