"""The control application's pieces, joined: service, loops, HTTP application."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fastapi import FastAPI

import lightmill
from lightmill.access import Identifier
from lightmill.access.jwks import IssuerBook, load_issuers
from lightmill.api import build_app
from lightmill.control.access import AccessPublisher, KeyService, identifier_of
from lightmill.control.gateway import Doors, PlatformGate, ServedEndpoints
from lightmill.control.jobs import Jobs
from lightmill.control.loop import ControlLoop
from lightmill.control.metrics import MetricsReader
from lightmill.control.ray_serve import ServeAdapter
from lightmill.control.service import ControlService
from lightmill.records.signals import SignalsConfig
from lightmill.records.specs import EndpointSpec
from lightmill.registry import PolicyBook
from lightmill.serving.board import RayBoard
from lightmill.serving.gateway import Gateway
from lightmill.settings import Settings
from lightmill.wiring.log_masking import mask_logs
from lightmill.wiring.platform import open_platform


def signals_of(spec: EndpointSpec, settings: Settings, policies: PolicyBook) -> SignalsConfig:
    """Return how an endpoint's replicas log and trace.

    Raises:
        NotFoundError: The masking policy of its prediction log does not exist.
        IntegrityError: The policy is not what was added.
    """
    log = spec.log.predictions
    return SignalsConfig(
        masking=policies.get(log.masking).policy if log.sample else None,
        trace_url=settings.trace_url,
        trace_ratio=settings.trace_ratio,
    )


class ControlPlane:
    """One running control plane; constructing it starts the reconcile loop and the sending of keys."""

    def __init__(self, settings: Settings) -> None:
        platform = open_platform(settings)
        mask_logs(platform)
        self._catalog = platform.catalog
        self._stop = threading.Event()
        jobs = Jobs(settings, platform.catalog)
        serve = ServeAdapter(
            platform.location,
            settings.local_url,
            loopback=settings.loopback,
            allow_python=settings.serve_python_steps,
            trust=settings.trust(settings.local_url),
            signals=lambda spec: signals_of(spec, settings, platform.policies),
            balance_path=settings.run_path / "h" / "balance",
        )
        loop = ControlLoop(platform.catalog, platform.registry, serve, jobs)
        loop.begin()
        self._issuers = IssuerBook(load_issuers(settings.jwt_issuers))
        board = RayBoard()
        publisher = AccessPublisher(platform.catalog, board, self._issuers)
        metrics = MetricsReader(platform.catalog, board)
        service = ControlService(settings, platform.catalog, platform.registry, platform.location, jobs, loop.wake)
        keys = KeyService(platform.catalog, publisher.wake)
        api: FastAPI = build_app(service, self._callers, lightmill.__version__, keys, metrics.text)
        served = ServedEndpoints(platform.catalog, platform.registry)
        self.app = Doors(api, Gateway(served, PlatformGate(self._callers)))
        self._start(loop.run, "control-loop")
        self._start(publisher.run, "access-publisher")
        self._start(lambda stop: self._issuers.run(stop, publisher.wake), "issuers")
        self._start(metrics.run, "metrics-reader")

    def _start(self, run: Callable[[threading.Event], None], name: str) -> None:
        threading.Thread(target=run, args=(self._stop,), name=name, daemon=True).start()

    def _callers(self) -> Identifier:
        return identifier_of(self._catalog, self._issuers)
