"""The control application's pieces, joined: service, loops, HTTP application."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fastapi import FastAPI

import lightmill
from lightmill.access import Identifier
from lightmill.access.jwks import IssuerBook, load_issuers
from lightmill.api import build_app
from lightmill.api.traffic import traffic_router
from lightmill.control.access import AccessPublisher, KeyService, identifier_of
from lightmill.control.gateway import Doors, PlatformGate, ServedEndpoints
from lightmill.control.graphs import GraphedEndpoints
from lightmill.control.jobs import Jobs
from lightmill.control.loop import ControlLoop
from lightmill.control.metrics import MetricsReader
from lightmill.control.ray_serve import ServeAdapter
from lightmill.control.service import ControlService
from lightmill.control.traffic import TrafficControl
from lightmill.control.traffic_service import TrafficService
from lightmill.records.signals import SignalsConfig
from lightmill.records.specs import EndpointSpec
from lightmill.registry import PolicyBook
from lightmill.serving.asgi import Gate
from lightmill.serving.board import RayBoard
from lightmill.serving.endpoints import Endpoints
from lightmill.serving.gateway import Gateway
from lightmill.serving.graphs.traces import GraphTraces
from lightmill.serving.grpc_server import GrpcAddress, GrpcServer
from lightmill.serving.servicer import InferenceServicer
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


def grpc_of(settings: Settings, endpoints: Endpoints, gate: Gate) -> GrpcServer | None:
    """Return the server of the gRPC port, None where there is to be none."""
    if not settings.grpc_port:
        return None
    tls = settings.tls_path if settings.encrypted else None
    servicer = InferenceServicer(endpoints, gate, version=lightmill.__version__)
    return GrpcServer(servicer, GrpcAddress(host=settings.host, port=settings.grpc_port, tls=tls))


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
        board = RayBoard()
        metrics = MetricsReader(platform.catalog, board)
        traffic = TrafficControl(
            platform.catalog,
            platform.registry,
            serve,
            board,
            metrics.replicas,
            lambda reference: platform.policies.get(reference).policy,
        )
        loop = ControlLoop(platform.catalog, platform.registry, serve, jobs, traffic)
        loop.begin()
        self._issuers = IssuerBook(load_issuers(settings.jwt_issuers))
        publisher = AccessPublisher(platform.catalog, board, self._issuers)
        service = ControlService(settings, platform.catalog, platform.registry, platform.location, jobs, loop.wake)
        keys = KeyService(platform.catalog, publisher.wake)
        candidates = TrafficService(platform.catalog, platform.registry, metrics.replicas, loop.wake)
        api: FastAPI = build_app(service, self._callers, lightmill.__version__, keys, metrics.text)
        api.include_router(traffic_router(candidates))
        served = GraphedEndpoints(
            platform.catalog,
            ServedEndpoints(platform.catalog, platform.registry),
            GraphTraces(settings.trace_url, settings.trace_ratio),
        )
        gate = PlatformGate(self._callers)
        self.app = Doors(api, Gateway(served, gate), grpc_of(settings, served, gate))
        self._start(loop.run, "control-loop")
        self._start(publisher.run, "access-publisher")
        self._start(lambda stop: self._issuers.run(stop, publisher.wake), "issuers")
        self._start(metrics.run, "metrics-reader")

    def _start(self, run: Callable[[threading.Event], None], name: str) -> None:
        threading.Thread(target=run, args=(self._stop,), name=name, daemon=True).start()

    def _callers(self) -> Identifier:
        return identifier_of(self._catalog, self._issuers)
