"""The replica: loads one model version straight from the registry and serves it.

The control plane imports this module to deploy it, so torch waits for the constructor.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lightmill.errors import NotFoundError
from lightmill.records.base import Record
from lightmill.records.endpoints import ApiKey
from lightmill.records.keys import AccessSet
from lightmill.records.references import VersionId
from lightmill.records.signals import SignalsConfig
from lightmill.records.specs import EndpointSpec
from lightmill.registry import RegistryLocation
from lightmill.serving.transport import keep_transport_private
from lightmill.telemetry import configure_logging

if TYPE_CHECKING:
    from lightmill.models.answers import Rows
    from lightmill.records.batching import Priority
    from lightmill.serving.front import Front
    from lightmill.serving.tensors import Array, InferRequest, InferResponse
    from lightmill.serving.traffic.candidates import Consulted


class PredictorConfig(Record):
    """What a replica is started with; it is visible in Ray's state API and holds no secret.

    `candidate` is the name among candidates of one that is reached by handle only; empty for the stable version.
    """

    spec: EndpointSpec
    version: VersionId
    location: RegistryLocation
    loopback: bool
    allow_python: bool = False
    signals: SignalsConfig = SignalsConfig()
    candidate: str = ""


class KeysConfig(Record):
    """Who may call, as a replica hears it first; from then on it follows `serving.access_feed`.

    Hashes of random keys are no secret.
    """

    keys: tuple[ApiKey, ...]


class Predictor:
    """The Serve deployment class; Ray calls `__serve_build_asgi_app__` after the constructor."""

    def __init__(self, config: str) -> None:
        parsed = PredictorConfig.model_validate_json(config)
        keep_transport_private(parsed.loopback)
        configure_logging(stream=sys.__stderr__)  # what Serve has put in its place keeps a thousand lines back
        from lightmill.serving.access_feed import follow_access
        from lightmill.serving.application import route_prefix
        from lightmill.serving.garbage import settle
        from lightmill.serving.gatekeeper import Gatekeeper
        from lightmill.serving.loading import follow_traffic, load_service, signals_of, stand_before
        from lightmill.serving.multiplexing.opening import many_models
        from lightmill.serving.parallel.group import start_group
        from lightmill.serving.shortcut import offer

        self._ranks = start_group(parsed.spec, parsed.version, parsed.location)
        signals = signals_of(parsed)
        self._service = load_service(
            parsed.spec,
            parsed.version,
            parsed.location,
            allow_python=parsed.allow_python,
            observers=(lambda report: signals.recorder.batch(report.rows),),
            ranks=self._ranks,
        )
        self._gatekeeper = Gatekeeper(parsed.spec.name, limits=parsed.spec.limits)
        self._many = many_models(parsed, self._service)
        app = self._many.app if self._many is not None else None
        self._front = stand_before(self._service, self._gatekeeper, signals, parsed.spec, app)
        if not parsed.candidate:
            offer(route_prefix(parsed.spec.name), self._front)
        self._following = follow_access(self._gatekeeper.renew)
        self._recorder = signals.recorder
        self._traffic = None if parsed.candidate else follow_traffic(parsed, self._service, signals)
        settle()

    def reconfigure(self, keys: dict[str, object]) -> None:
        """Take the API keys that this replica was deployed with, unless newer ones have come by the feed."""
        if not self._following.following:
            self._gatekeeper.renew(AccessSet(keys=KeysConfig.model_validate(keys).keys))

    async def check_health(self) -> None:
        """Refuse with UnavailableError when a rank of a divided model has ended; Serve then replaces the replica."""
        if self._ranks is not None:
            self._ranks.check()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what scaling policies go by; Serve's replica asks every few seconds and tells its controller."""
        return self._service.load.report()

    async def infer(
        self,
        request: InferRequest,
        authorization: bytes | None,
        x_api_key: bytes | None,
        traceparent: bytes | None = None,
    ) -> InferResponse:
        """Answer what the gateway asks by handle, for whoever presents these headers; see `Gatekeeper` for refusals."""
        from lightmill.serving.front import ASKING

        return await self._front.answer(
            authorization,
            x_api_key,
            lambda: self._service.infer(request, caller=ASKING.get()),
            traceparent,
        )

    async def part(self, features: Array, timeout_s: float | None, priority: Priority) -> Rows:
        """Answer a part of a request that another replica let in and divided; see `InferenceService.part`."""
        return await self._service.part(features, timeout_s, priority)

    async def compute(self, version: VersionId, features: Array, timeout_s: float | None, priority: Priority) -> Rows:
        """Answer rows of a request to one of many models that another replica let in; see `ManyModels.compute`."""
        if self._many is None:
            raise NotFoundError("This endpoint serves one model.")
        return await self._many.compute(version, features, timeout_s, priority)

    async def consult(self, request: InferRequest, copy: bool) -> Consulted:
        """Answer, as a candidate, what the stable version let in; see `InferenceService.infer` for errors."""
        from lightmill.serving.traffic.candidates import consulted

        return await consulted(self._service.infer(request, copy=copy), self._recorder)

    def __del__(self) -> None:
        """Write the rest of logs; Serve calls it when the replica has drained."""
        traffic = getattr(self, "_traffic", None)
        if traffic is not None:
            traffic.close()
        front = getattr(self, "_front", None)
        if front is not None:
            front.close()

    def __serve_build_asgi_app__(self) -> Front:
        """Return the application that answers this replica's HTTP requests."""
        return self._front
