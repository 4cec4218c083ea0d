"""The reconcile loop: the one place that carries out decisions."""

from __future__ import annotations

import hashlib
import logging
import threading

from lightmill.catalog import Catalog
from lightmill.control import graphs
from lightmill.control.jobs import Jobs
from lightmill.control.ray_serve import ServeAdapter
from lightmill.control.reconcile import Action, Deploy, Forget, Observe, Refusal, Remove, Wanted, reconcile
from lightmill.control.traffic import TrafficControl
from lightmill.errors import LightmillError
from lightmill.records.endpoints import ApiKey, Endpoint, EndpointState
from lightmill.records.references import AssetKind, parse_reference
from lightmill.registry import Registry

QUIET_INTERVAL_S = 1.0
BUSY_INTERVAL_S = 0.25
HEAL_EVERY = 60
JOBS_EVERY = 2
RETRY_EVERY = 30
RETRY_FAILED_EVERY = 300
_ON_ITS_WAY = (EndpointState.PENDING, EndpointState.DEPLOYING, EndpointState.DELETING)
logger = logging.getLogger("lightmill.control")


class ControlLoop:
    """Converges endpoints, jobs and the catalog's index; `step` is one round, `run` repeats it."""

    def __init__(
        self, catalog: Catalog, registry: Registry, serve: ServeAdapter, jobs: Jobs, traffic: TrafficControl
    ) -> None:
        self._traffic = traffic
        self._catalog = catalog
        self._registry = registry
        self._serve = serve
        self._jobs = jobs
        self._deployed: dict[str, str] = {}
        self._refused: dict[str, Refusal] = {}
        self._attempts: dict[str, int] = {}
        self._rounds = 0
        self._wake = threading.Event()

    def begin(self) -> None:
        """Forget what an earlier process saw of the endpoints: until this one looks, none is ready."""
        for endpoint in self._catalog.endpoints.list():
            self._catalog.endpoints.observe(
                endpoint.name, state=EndpointState.PENDING, version=endpoint.version, replicas=0, message=""
            )

    def wake(self) -> None:
        """Start the next round now: something was changed."""
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Repeat rounds until `stop` is set; an error in a round is logged and the next round tries again."""
        while not stop.is_set():
            busy = False
            try:
                busy = self.step()
            except Exception:
                logger.exception("a round of the control loop failed; trying again")
            self._wake.wait(BUSY_INTERVAL_S if busy else QUIET_INTERVAL_S)
            self._wake.clear()

    def step(self) -> bool:
        """Look, decide, act; return whether something is still on its way."""
        if self._rounds % HEAL_EVERY == 0:
            self._heal()
        if self._rounds % JOBS_EVERY == 0:
            self._sync_jobs()
        if self._rounds % RETRY_EVERY == 0:
            self._refused.clear()
        self._rounds += 1
        keys = [key for key in self._catalog.keys.list() if key.revoked is None]
        digest = hashlib.sha256("".join(key.model_dump_json() for key in keys).encode()).hexdigest()
        endpoints = self._catalog.endpoints.list()
        wanted = [self._wanted(endpoint) for endpoint in endpoints if endpoint.spec.graph is None]
        seen = self._serve.seen()
        if self._rounds % RETRY_FAILED_EVERY == 0:
            self._retry([name for name, found in seen.items() if found.status == "DEPLOY_FAILED"])
        actions = [*reconcile(wanted, seen, self._deployed, digest, self._refused), *graphs.observed(endpoints)]
        for action in actions:
            self._act(action, keys)
        moving = self._traffic.step({entry.endpoint.name: entry.version for entry in wanted})
        return moving or any(not isinstance(a, Observe) or a.state in _ON_ITS_WAY for a in actions)

    def _retry(self, failed: list[str]) -> None:
        """Deploy again, once in a while, what Serve gave up on: the cause may have gone."""
        for name in failed:
            if self._deployed.pop(name, None) is not None:
                self._attempts[name] = self._attempts.get(name, 0) + 1

    def _sync_jobs(self) -> None:
        try:
            self._jobs.sync()
        except LightmillError as exc:
            logger.error("the jobs could not be looked at: %s", exc)

    def _heal(self) -> None:
        try:
            healed = self._registry.heal()
        except LightmillError as exc:
            logger.error("the catalog's index could not be brought up to the store: %s", exc)
        else:
            if healed:
                logger.info("recorded %d versions that the store holds and the catalog lacked", healed)

    def _wanted(self, endpoint: Endpoint) -> Wanted:
        if endpoint.deleted:
            return Wanted(endpoint=endpoint, version=None)
        try:
            reference = parse_reference(endpoint.spec.model)
            return Wanted(endpoint=endpoint, version=self._registry.resolve(AssetKind.MODEL, reference))
        except LightmillError as exc:
            return Wanted(endpoint=endpoint, version=None, problem=exc.message)

    def _act(self, action: Action, keys: list[ApiKey]) -> None:
        match action:
            case Deploy():
                self._deploy(action, keys)
            case Remove():
                self._serve.remove(action.name)
                self._deployed.pop(action.name, None)
            case Forget():
                self._catalog.endpoints.forget(action.name)
            case Observe():
                self._catalog.endpoints.observe(
                    action.name,
                    state=action.state,
                    version=action.version,
                    replicas=action.replicas,
                    message=action.message,
                    revision=action.revision,
                )

    def _deploy(self, action: Deploy, keys: list[ApiKey]) -> None:
        endpoint, version = action.wanted.endpoint, action.wanted.version
        if version is None:
            return
        logger.info("endpoint %s: rolling to %s", endpoint.name, version)
        try:
            self._serve.deploy(endpoint.spec, version, keys, self._attempts.get(endpoint.name, 0))
        except Exception as exc:
            logger.exception("endpoint %s could not be deployed", endpoint.name)
            self._refused[endpoint.name] = Refusal(mark=action.mark, message=str(exc) or type(exc).__name__)
            return
        self._deployed[endpoint.name] = action.mark
