"""The adapter to Ray Serve: run, remove and watch the applications of endpoints."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from ray import serve

from lightmill.control.reconcile import Seen
from lightmill.control.traffic import CandidateHost
from lightmill.records.endpoints import ApiKey
from lightmill.records.references import VersionId
from lightmill.records.signals import SignalsConfig
from lightmill.records.specs import EndpointSpec
from lightmill.registry import RegistryLocation
from lightmill.serving.application import (
    APPLICATION_PREFIX,
    application_name,
    build_application,
    candidate_application,
    candidate_of,
    route_prefix,
)
from lightmill.serving.routing.haproxy import set_balance

RUNNING, DEPLOYING = "RUNNING", "DEPLOYING"
_OUR_ERROR = re.compile(r"lightmill\.errors\.\w+: (.+)")
PROBE_S = 2.0


class ServeAdapter(CandidateHost):
    """Endpoints as Serve applications of the cluster that this process is part of."""

    def __init__(
        self,
        location: RegistryLocation,
        base_url: str,
        *,
        loopback: bool,
        allow_python: bool = False,
        trust: ssl.SSLContext | bool = True,
        signals: Callable[[EndpointSpec], SignalsConfig] = lambda spec: SignalsConfig(),
        balance_path: Path | None = None,
    ) -> None:
        """Work on Serve's applications.

        Args:
            location: Where replicas find their models.
            base_url: Where the platform answers.
            loopback: Whether replicas listen on this machine only.
            allow_python: Whether preparation steps may call functions.
            trust: What a client at `base_url` trusts.
            signals: Says of an endpoint how its replicas are to log and trace.
            balance_path: Where HAProxy finds its rules of balancing; None where it has none of ours.
        """
        self._balance_path = balance_path
        self._location = location
        self._base_url = base_url
        self._loopback = loopback
        self._allow_python = allow_python
        self._trust = trust
        self._signals = signals
        self._answering: set[str] = set()

    def seen(self) -> dict[str, Seen]:
        """Return what Serve reports of every endpoint, by endpoint name."""
        found = {}
        for name, application in serve.status().applications.items():
            if name.startswith(APPLICATION_PREFIX):
                endpoint = name.removeprefix(APPLICATION_PREFIX)
                one = _seen(application)
                if one.status == RUNNING and not self._answers(endpoint):
                    one = replace(one, status=DEPLOYING)
                found[endpoint] = one
        return found

    def candidates(self) -> dict[tuple[str, str], Seen]:
        """See `CandidateHost`."""
        named = {candidate_of(name): application for name, application in serve.status().applications.items()}
        return {key: _seen(application) for key, application in named.items() if key is not None}

    def deploy_candidate(self, spec: EndpointSpec, candidate: str, version: VersionId) -> None:
        """See `CandidateHost`; it has no route, so that only handles reach it."""
        application = build_application(
            spec,
            version,
            self._location,
            (),
            loopback=self._loopback,
            allow_python=self._allow_python,
            signals=self._signals(spec),
            candidate=candidate,
        )
        target = serve.RunTarget(application, name=candidate_application(spec.name, candidate), route_prefix=None)
        serve.run_many([target], wait_for_applications_running=False, wait_for_ingress_deployment_creation=False)

    def remove_candidate(self, endpoint: str, candidate: str) -> None:
        """See `CandidateHost`."""
        serve.delete(candidate_application(endpoint, candidate), _blocking=False)

    def _answers(self, endpoint: str) -> bool:
        """Whether requests reach the endpoint: HAProxy learns of a route a moment after Serve calls it running.

        The replica refuses a request without a key with 401; without a route the control application says 404.
        """
        if endpoint not in self._answering:
            try:
                answer = httpx.get(
                    f"{self._base_url}{route_prefix(endpoint)}/ready",
                    timeout=PROBE_S,
                    trust_env=False,
                    verify=self._trust,
                )
            except httpx.HTTPError:
                return False
            if answer.status_code not in (200, 401):
                return False
            self._answering.add(endpoint)
        return True

    def deploy(self, spec: EndpointSpec, version: VersionId, keys: Sequence[ApiKey], attempt: int) -> None:
        """Start or roll an endpoint; returns as soon as Serve has taken it, ready or not.

        An equal specification, version and `attempt` restart nothing; other keys reach the replicas as they run.
        """
        if self._balance_path:
            set_balance(self._balance_path, application_name(spec.name), spec.balancing)
        application = build_application(
            spec,
            version,
            self._location,
            keys,
            loopback=self._loopback,
            allow_python=self._allow_python,
            attempt=attempt,
            signals=self._signals(spec),
        )
        target = serve.RunTarget(application, name=application_name(spec.name), route_prefix=route_prefix(spec.name))
        serve.run_many([target], wait_for_applications_running=False, wait_for_ingress_deployment_creation=False)

    def remove(self, name: str) -> None:
        """Take an endpoint away."""
        self._answering.discard(name)
        if self._balance_path:
            set_balance(self._balance_path, application_name(name), None)
        serve.delete(application_name(name), _blocking=False)


def _seen(application: Any) -> Seen:
    deployments = application.deployments.values()
    return Seen(
        status=str(getattr(application.status, "value", application.status)),
        replicas=sum(_running(d.replica_states) for d in deployments),
        message=_reason([*(d.message for d in deployments), application.message]),
    )


def _running(states: Mapping[Any, int]) -> int:
    """Return how many replicas run; Serve names the states in an enumeration of strings."""
    return sum(count for state, count in states.items() if state == "RUNNING")


def _reason(messages: Sequence[str]) -> str:
    """Return, of Serve's messages with their stack traces, the error of ours that lies behind them, if there is one."""
    told = [message for message in messages if message]
    for message in told:
        found = _OUR_ERROR.findall(message)
        if found:
            return found[-1].strip()
    return told[0].strip() if told else ""
