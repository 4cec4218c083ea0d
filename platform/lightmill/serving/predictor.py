"""The replica: loads one model version straight from the registry and serves it.

The control plane imports this module to deploy it, so torch waits for the constructor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightmill.records.base import Record
from lightmill.records.endpoints import ApiKey
from lightmill.records.keys import AccessSet
from lightmill.records.references import VersionId
from lightmill.records.signals import SignalsConfig
from lightmill.records.specs import EndpointSpec
from lightmill.registry import RegistryLocation
from lightmill.serving.transport import keep_transport_private

if TYPE_CHECKING:
    from lightmill.serving.front import Front
    from lightmill.serving.tensors import InferRequest, InferResponse


class PredictorConfig(Record):
    """What a replica is started with; it is visible in Ray's state API and holds no secret."""

    spec: EndpointSpec
    version: VersionId
    location: RegistryLocation
    loopback: bool
    allow_python: bool = False
    signals: SignalsConfig = SignalsConfig()


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
        from lightmill.serving.access_feed import follow_access
        from lightmill.serving.gatekeeper import Gatekeeper
        from lightmill.serving.loading import load_service, signals_of, stand_before

        signals = signals_of(parsed)
        self._service = load_service(
            parsed.spec,
            parsed.version,
            parsed.location,
            allow_python=parsed.allow_python,
            observers=(lambda report: signals.recorder.batch(report.rows),),
        )
        self._gatekeeper = Gatekeeper(parsed.spec.name, limits=parsed.spec.limits)
        self._front = stand_before(self._service, self._gatekeeper, signals, parsed.spec)
        self._following = follow_access(self._gatekeeper.renew)

    def reconfigure(self, keys: dict[str, object]) -> None:
        """Take the API keys that this replica was deployed with, unless newer ones have come by the feed."""
        if not self._following.following:
            self._gatekeeper.renew(AccessSet(keys=KeysConfig.model_validate(keys).keys))

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what scaling policies go by; Serve's replica asks every few seconds and tells its controller."""
        return self._service.load.report()

    async def infer(self, request: InferRequest, authorization: bytes | None, x_api_key: bytes | None) -> InferResponse:
        """Answer what the gateway asks by handle, for whoever presents these headers; see `Gatekeeper` for refusals."""
        return await self._front.answer(authorization, x_api_key, lambda: self._service.infer(request))

    def __del__(self) -> None:
        """Write the rest of logs; Serve calls it when the replica has drained."""
        front = getattr(self, "_front", None)
        if front is not None:
            front.close()

    def __serve_build_asgi_app__(self) -> Front:
        """Return the application that answers this replica's HTTP requests."""
        return self._front
