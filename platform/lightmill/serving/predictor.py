"""The replica: loads one model version straight from the registry and serves it.

The control plane imports this module to deploy it, so torch waits for the constructor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightmill.access import KeyChecker
from lightmill.records.base import Record
from lightmill.records.endpoints import ApiKey
from lightmill.records.references import VersionId
from lightmill.records.specs import EndpointSpec
from lightmill.registry import RegistryLocation
from lightmill.serving.transport import keep_transport_private

if TYPE_CHECKING:
    from lightmill.serving.service import InferenceService


class PredictorConfig(Record):
    """What a replica is started with; it is visible in Ray's state API and holds no secret."""

    spec: EndpointSpec
    version: VersionId
    location: RegistryLocation
    loopback: bool
    allow_python: bool = False


class KeysConfig(Record):
    """What changes without a restart: who may call. Hashes of random keys are no secret."""

    keys: tuple[ApiKey, ...]


class Predictor:
    """The Serve deployment class; Ray calls `__serve_build_asgi_app__` after the constructor."""

    def __init__(self, config: str) -> None:
        parsed = PredictorConfig.model_validate_json(config)
        keep_transport_private(parsed.loopback)
        from lightmill.serving.loading import load_service

        self._service = load_service(parsed.spec, parsed.version, parsed.location, allow_python=parsed.allow_python)

    def reconfigure(self, keys: dict[str, object]) -> None:
        """Take a new set of API keys; Serve calls it without restarting the replica."""
        self._service.keys = KeyChecker(KeysConfig.model_validate(keys).keys)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what scaling policies go by; Serve's replica asks every few seconds and tells its controller."""
        return self._service.signals.report()

    def __serve_build_asgi_app__(self) -> InferenceService:
        """Return the application that answers this replica's HTTP requests."""
        return self._service
