"""The adapter to Ray Serve: run, remove and watch the applications of endpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray import serve

from lightmill.control.reconcile import Seen
from lightmill.records.endpoints import ApiKey
from lightmill.records.references import VersionId
from lightmill.records.specs import EndpointSpec
from lightmill.registry import RegistryLocation
from lightmill.serving.application import (
    APPLICATION_PREFIX,
    application_name,
    build_application,
    route_prefix,
)


class ServeAdapter:
    """Endpoints as Serve applications of the cluster that this process is part of."""

    def __init__(self, location: RegistryLocation, *, loopback: bool) -> None:
        self._location = location
        self._loopback = loopback

    def seen(self) -> dict[str, Seen]:
        """Return what Serve reports of every endpoint, by endpoint name."""
        found = {}
        for name, application in serve.status().applications.items():
            if name.startswith(APPLICATION_PREFIX):
                deployments = application.deployments.values()
                found[name.removeprefix(APPLICATION_PREFIX)] = Seen(
                    status=str(getattr(application.status, "value", application.status)),
                    replicas=sum(_running(d.replica_states) for d in deployments),
                    message=application.message or "; ".join(d.message for d in deployments if d.message),
                )
        return found

    def deploy(self, spec: EndpointSpec, version: VersionId, keys: Sequence[ApiKey]) -> None:
        """Start or roll an endpoint; returns before it is ready."""
        application = build_application(spec, version, self._location, keys, loopback=self._loopback)
        serve.run(
            application,
            name=application_name(spec.name),
            route_prefix=route_prefix(spec.name),
            blocking=False,
        )

    def remove(self, name: str) -> None:
        """Take an endpoint away."""
        serve.delete(application_name(name), _blocking=False)


def _running(states: Mapping[Any, int]) -> int:
    """Return how many replicas run; Serve names the states in an enumeration of strings."""
    return sum(count for state, count in states.items() if state == "RUNNING")
