"""Carries out what `rollout` decides: replicas of candidates, plans for the stable version's replicas, promotions.

The order keeps every request answered: a candidate gets a share only when its replicas run, and its replicas go only
`GRACE_S` after the plan without it was written, which replicas look for twice a second.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

from lightmill.catalog import Catalog
from lightmill.control.reconcile import Seen
from lightmill.control.rollout import (
    GAVE_UP,
    RUNNING,
    Counted,
    View,
    advance,
    is_needed,
    not_promoted,
    percent_of,
)
from lightmill.errors import ConflictError, LightmillError
from lightmill.records.endpoints import Endpoint
from lightmill.records.logs import LogSpec
from lightmill.records.masking import MaskingPolicy
from lightmill.records.references import AssetKind, VersionId, parse_reference
from lightmill.records.rollouts import TrafficAsked, TrafficPhase, TrafficState
from lightmill.records.signals import ReplicaSignals
from lightmill.records.specs import EndpointSpec
from lightmill.records.traffic import CandidateSpec, TrafficPlan, TrafficSpec, TrafficTarget
from lightmill.registry import Registry
from lightmill.serving.application import candidate_application
from lightmill.serving.board import Board
from lightmill.serving.traffic.counts import together
from lightmill.serving.traffic.following import write_plan

GRACE_S = 5.0
Key = tuple[str, str]
"""An endpoint and a candidate."""
logger = logging.getLogger("lightmill.control")


class CandidateHost(ABC):
    """Where candidates have their replicas. Each method may be repeated after any error."""

    @abstractmethod
    def candidates(self) -> dict[Key, Seen]:
        """Return what runs, by endpoint and candidate."""

    @abstractmethod
    def deploy_candidate(self, spec: EndpointSpec, candidate: str, version: VersionId) -> None:
        """Start or roll a candidate's replicas; returns at once. Nothing happens to one that is so already."""

    @abstractmethod
    def remove_candidate(self, endpoint: str, candidate: str) -> None:
        """Take a candidate's replicas away, when they have answered what they were asked."""


class TrafficControl:
    """The candidates of all endpoints; `step` is one round of the control loop."""

    def __init__(
        self,
        catalog: Catalog,
        registry: Registry,
        host: CandidateHost,
        board: Board,
        replicas: Callable[[], Sequence[ReplicaSignals]],
        policy: Callable[[str], MaskingPolicy],
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Work on these.

        Args:
            catalog: Holds endpoints, and how far their candidates have come.
            registry: Resolves references and moves aliases.
            host: Runs candidates.
            board: Takes plans.
            replicas: Gives what replicas told last.
            policy: Gives a masking policy by its reference.
            wall: Returns seconds since 1970.
        """
        self._catalog = catalog
        self._registry = registry
        self._host = host
        self._board = board
        self._replicas = replicas
        self._policy = policy
        self._wall = wall
        self._deployed: dict[Key, str] = {}
        self._refused: dict[Key, tuple[str, str]] = {}
        self._unneeded: dict[Key, float] = {}
        self._looked = False

    def step(self, follows: Mapping[str, VersionId | None]) -> bool:
        """Look, decide and act once; return whether something is on its way.

        Args:
            follows: The version that each endpoint's own reference selects now.
        """
        kept = self._catalog.traffic.all()
        wanted = {e.name: e for e in self._catalog.endpoints.list() if e.spec.traffic is not None and not e.deleted}
        if not (kept or wanted or self._unneeded) and self._looked:
            return False
        seen, replicas = self._host.candidates(), self._replicas()
        self._looked = True
        needed: set[Key] = set()
        moving = False
        for name, endpoint in wanted.items():
            state, asked = kept.get(name, (None, None))
            try:
                after = self._one(endpoint, state, asked, follows.get(name), seen, replicas)
            except LightmillError as exc:
                logger.error("the candidates of endpoint %s could not be looked at: %s", name, exc)
                needed |= {key for key in seen if key[0] == name}
                continue
            candidates = after.spec.candidates
            needed |= {(name, candidate.name) for candidate in candidates if is_needed(after, candidate)}
            moving = moving or after.phase in (TrafficPhase.STARTING, TrafficPhase.PROMOTING)
        for name in kept.keys() - wanted.keys():
            write_plan(self._board, name, None)
            self._catalog.traffic.forget(name)
        self._tidy(seen, needed)
        return moving or bool(self._unneeded)

    def _one(
        self,
        endpoint: Endpoint,
        state: TrafficState | None,
        asked: TrafficAsked | None,
        follows: VersionId | None,
        seen: Mapping[Key, Seen],
        replicas: Sequence[ReplicaSignals],
    ) -> TrafficState:
        spec = endpoint.spec.traffic
        assert spec is not None  # noqa: S101 - the caller chose those that have it
        view = View(
            endpoint=endpoint,
            spec=spec,
            follows=follows,
            selected=self._selected(spec),
            seen=self._seen(endpoint.name, spec, seen),
            counts=counted(replicas, endpoint.name, state.generation if state else 0),
            now_s=self._wall(),
            asked=asked,
        )
        after, promotion = advance(state, view)
        if promotion is not None and promotion.version != follows:
            try:
                self._move_alias(endpoint.spec, promotion.version, follows)
            except LightmillError as exc:
                after = not_promoted(after, exc.message, view.now_s)
        after = after.model_copy(update={"apps": {name: _shown(found) for name, found in sorted(view.seen.items())}})
        if after != state:
            self._write(endpoint.name, state, after)
        if asked is not None:
            self._catalog.traffic.ask(endpoint.name, None)
        for candidate in spec.candidates:
            if is_needed(after, candidate):
                self._deploy(endpoint.spec, candidate, after.versions.get(candidate.name), seen)
        write_plan(self._board, endpoint.name, self._plan(endpoint.name, after, view.seen))
        return after

    def _selected(self, spec: TrafficSpec) -> dict[str, VersionId]:
        found = {}
        for candidate in spec.candidates:
            try:
                found[candidate.name] = self._registry.resolve(AssetKind.MODEL, parse_reference(candidate.model))
            except LightmillError as exc:
                logger.error("candidate %s selects no version: %s", candidate.name, exc)
        return found

    def _seen(self, endpoint: str, spec: TrafficSpec, seen: Mapping[Key, Seen]) -> dict[str, Seen]:
        found = {c.name: seen[(endpoint, c.name)] for c in spec.candidates if (endpoint, c.name) in seen}
        for candidate in spec.candidates:
            refused = self._refused.get((endpoint, candidate.name))
            if refused is not None:
                found[candidate.name] = Seen(status=GAVE_UP, replicas=0, message=refused[1])
        return found

    def _move_alias(self, spec: EndpointSpec, version: VersionId, follows: VersionId | None) -> None:
        reference = parse_reference(spec.model)
        if reference.alias is None or reference.name != version.name:
            raise ConflictError(
                f"{spec.model} is no alias that can move to {version}; change the specification's model."
            )
        expect = follows.seq if follows else None
        self._registry.set_alias(AssetKind.MODEL, reference.name, reference.alias, version.seq, expect=expect)

    def _write(self, endpoint: str, before: TrafficState | None, after: TrafficState) -> None:
        self._catalog.traffic.put(endpoint, after)
        if before is None or before.generation != after.generation:
            logger.info("endpoint %s: traffic is %s: %s", endpoint, after.phase, after.reason)

    def _deploy(
        self, spec: EndpointSpec, candidate: CandidateSpec, version: VersionId | None, seen: Mapping[Key, Seen]
    ) -> None:
        if version is None:
            return
        key, own = (spec.name, candidate.name), candidate_spec(spec, candidate)
        mark = f"{version.digest}/{own.model_dump_json()}"
        refused = self._refused.get(key)
        if (self._deployed.get(key) == mark and key in seen) or (refused is not None and refused[0] == mark):
            return
        logger.info("endpoint %s: candidate %s rolls to %s", spec.name, candidate.name, version)
        self._refused.pop(key, None)
        try:
            self._host.deploy_candidate(own, candidate.name, version)
        except Exception as exc:
            logger.exception("candidate %s of endpoint %s could not be deployed", candidate.name, spec.name)
            self._refused[key] = (mark, str(exc) or type(exc).__name__)
            return
        self._deployed[key] = mark

    def _plan(self, endpoint: str, state: TrafficState, seen: Mapping[str, Seen]) -> TrafficPlan | None:
        targets = tuple(self._targets(endpoint, state, seen))
        if not targets:
            return None
        spec = state.spec
        masked = spec.differences.masking and any(target.shadow for target in targets)
        return TrafficPlan(
            endpoint=endpoint,
            generation=state.generation,
            targets=targets,
            sticky=spec.sticky,
            timeout_s=spec.timeout_s,
            shadow_in_flight=spec.shadow_in_flight,
            compare=spec.compare,
            differences=spec.differences,
            masking=self._policy(spec.differences.masking) if masked else None,
        )

    def _targets(self, endpoint: str, state: TrafficState, seen: Mapping[str, Seen]) -> Iterable[TrafficTarget]:
        for candidate in state.spec.candidates:
            version, found = state.versions.get(candidate.name), seen.get(candidate.name)
            percent = percent_of(state, candidate)
            reached = found is not None and (found.status == RUNNING or found.replicas > 0)
            # A canary that had replicas and lost them keeps its share: the stable version answers, and it is judged.
            judged = candidate.canary is not None and percent > 0
            if version is None or not (reached or judged) or not (percent or candidate.shadow):
                continue
            yield TrafficTarget(
                name=candidate.name,
                application=candidate_application(endpoint, candidate.name),
                version=version,
                percent=percent,
                shadow=candidate.shadow or 0.0,
                canary=candidate.canary is not None,
            )

    def _tidy(self, seen: Mapping[Key, Seen], needed: set[Key]) -> None:
        """Remove replicas that nobody has needed for `GRACE_S`."""
        now_s = self._wall()
        for key in [key for key in self._unneeded if key not in seen or key in needed]:
            del self._unneeded[key]
        for key, found in seen.items():
            if key in needed or found.status == "DELETING":
                continue
            if now_s - self._unneeded.setdefault(key, now_s) < GRACE_S:
                continue
            logger.info("endpoint %s: the replicas of candidate %s go", *key)
            self._host.remove_candidate(*key)
            self._deployed.pop(key, None)
            self._refused.pop(key, None)


def candidate_spec(spec: EndpointSpec, candidate: CandidateSpec) -> EndpointSpec:
    """Return what the replicas of a candidate are to be: as the endpoint's, with its model and number; no logs."""
    return spec.model_copy(
        update={
            "model": candidate.model,
            "replicas": candidate.replicas,
            "traffic": None,
            "log": LogSpec(access=0.0),
        }
    )


def counted(replicas: Iterable[ReplicaSignals], endpoint: str, generation: int) -> Counted:
    """Return what all replicas of an endpoint counted since its shares last changed."""
    return together(
        one
        for replica in replicas
        if replica.endpoint == endpoint and replica.traffic is not None and replica.traffic.generation == generation
        for one in replica.traffic.window
    )


def _shown(found: Seen) -> str:
    return f"{found.status.lower()}: {found.message}" if found.status == GAVE_UP else found.status.lower()
