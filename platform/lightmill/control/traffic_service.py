"""What people ask of the candidates of an endpoint: how they do, promote, roll back, what shadows answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightmill.catalog import Catalog
from lightmill.control.rollout import ENDED, percent_of
from lightmill.control.traffic import counted
from lightmill.errors import ConflictError, NotFoundError
from lightmill.records.base import now_iso
from lightmill.records.endpoints import Endpoint
from lightmill.records.references import AssetKind, VersionId, parse_reference
from lightmill.records.rollouts import (
    ShadowDifference,
    TrafficAsked,
    TrafficPhase,
    TrafficReport,
    TrafficRow,
    TrafficState,
)
from lightmill.records.signals import ReplicaSignals, TargetCounts
from lightmill.records.traffic import STABLE, CandidateSpec
from lightmill.registry import Registry
from lightmill.serving.traffic.canary import error_rate
from lightmill.serving.traffic.counts import quantile
from lightmill.serving.traffic.differences import differences_run, read_differences

SHADOWS_MOST = 1000


class TrafficService:
    """The operations on candidates."""

    def __init__(
        self,
        catalog: Catalog,
        registry: Registry,
        replicas: Callable[[], Sequence[ReplicaSignals]],
        wake: Callable[[], None],
    ) -> None:
        self._catalog = catalog
        self._registry = registry
        self._replicas = replicas
        self._wake = wake

    def report(self, name: str) -> TrafficReport:
        """Return how an endpoint's versions do; NotFoundError if there is no such endpoint."""
        endpoint = self._catalog.endpoints.get(name)
        state = self._state(endpoint)
        if state is None:
            return TrafficReport(endpoint=name, rows=(_stable_row(endpoint, 100.0, None),))
        counts = counted(self._replicas(), name, state.generation)

        def of(one: str, version: VersionId | None) -> TargetCounts | None:
            return counts.get((one, str(version.seq))) if version else None

        rows = [
            _candidate_row(state, each, of(each.name, state.versions.get(each.name))) for each in state.spec.candidates
        ]
        rest = 100.0 - sum(row.percent for row in rows)
        canary = state.spec.canary
        return TrafficReport(
            endpoint=name,
            rows=(_stable_row(endpoint, rest, of(STABLE, endpoint.version)), *rows),
            phase=state.phase,
            step=state.step if canary else None,
            steps=canary.canary.steps if canary and canary.canary else (),
            reason=state.reason,
            events=state.events,
        )

    def promote(self, name: str, candidate: str = "") -> TrafficReport:
        """Let an endpoint's alias move to a candidate's version; the control loop does so at once.

        Raises:
            NotFoundError: There is no such endpoint or candidate.
            ConflictError: It has no candidates, or several of which none is named; it is promoted already; or the
                endpoint follows no alias that could move there.
        """
        endpoint = self._catalog.endpoints.get(name)
        state = self._state(endpoint)
        if state is None:
            raise ConflictError(f"Endpoint {name!r} has no candidates; name some under traffic in its specification.")
        chosen = _chosen(state, candidate)
        version = state.versions.get(chosen.name)
        reference = parse_reference(endpoint.spec.model)
        if version is None:
            raise ConflictError(f"Candidate {chosen.name!r} ({chosen.model}) selects no version.")
        if reference.alias is None or reference.name != version.name:
            raise ConflictError(
                f"Endpoint {name!r} follows {reference}, no alias that can move to {version}; change its specification."
            )
        if version == endpoint.version and state.phase is not TrafficPhase.PROMOTING:
            raise ConflictError(f"Endpoint {name!r} serves {version} already.")
        self._catalog.traffic.ask(name, TrafficAsked(what="promote", candidate=chosen.name, at=now_iso()))
        self._wake()
        return self.report(name)

    def roll_back(self, name: str) -> TrafficReport:
        """End an endpoint's canary; where none is under way, move its alias back to where it pointed before.

        Raises:
            NotFoundError: There is no such endpoint, or its alias never pointed elsewhere.
            ConflictError: There is no canary, and the endpoint follows no alias.
        """
        endpoint = self._catalog.endpoints.get(name)
        state = self._state(endpoint)
        reference = parse_reference(endpoint.spec.model)
        canary = state.spec.canary if state else None
        if state and canary and state.phase not in (*ENDED, TrafficPhase.PROMOTING):
            self._catalog.traffic.ask(name, TrafficAsked(what="rollback", candidate=canary.name, at=now_iso()))
        elif reference.alias is None:
            raise ConflictError(
                f"Endpoint {name!r} has no canary under way, and follows {reference}, which is no alias; change its "
                "specification."
            )
        else:
            self._registry.roll_back(AssetKind.MODEL, reference.name, reference.alias)
        self._wake()
        return self.report(name)

    def shadows(self, name: str, limit: int) -> list[ShadowDifference]:
        """Return the newest rows that shadows answered otherwise; NotFoundError if there is no such endpoint."""
        self._catalog.endpoints.get(name)
        wanted = min(limit, SHADOWS_MOST)
        found: list[ShadowDifference] = []
        for version in self._catalog.versions.list(AssetKind.RUN, differences_run(name)):
            if len(found) >= wanted:
                break
            found += read_differences(self._registry, version.id)
        return found[:wanted]

    def _state(self, endpoint: Endpoint) -> TrafficState | None:
        """Return how far its candidates have come; None if it has none, or the loop has not looked at them yet."""
        return self._catalog.traffic.get(endpoint.name) if endpoint.spec.traffic else None


def _chosen(state: TrafficState, name: str) -> CandidateSpec:
    candidates = state.spec.candidates
    if name:
        found = state.spec.named(name)
        if found is None:
            raise NotFoundError(f"No candidate {name!r}; there are {', '.join(each.name for each in candidates)}.")
        return found
    found = state.spec.canary or (candidates[0] if len(candidates) == 1 else None)
    if found is None:
        raise ConflictError(f"Say which candidate: {', '.join(each.name for each in candidates)}.")
    return found


def _stable_row(endpoint: Endpoint, percent: float, counts: TargetCounts | None) -> TrafficRow:
    return _row(STABLE, endpoint.version, STABLE, percent, str(endpoint.state), endpoint.message, counts)


def _candidate_row(state: TrafficState, candidate: CandidateSpec, counts: TargetCounts | None) -> TrafficRow:
    shown, _, message = state.apps.get(candidate.name, "gone" if state.phase in ENDED else "waiting").partition(": ")
    version = state.versions.get(candidate.name)
    return _row(candidate.name, version, candidate.role, percent_of(state, candidate), shown, message, counts)


def _row(
    name: str,
    version: VersionId | None,
    role: str,
    percent: float,
    state: str,
    message: str,
    counts: TargetCounts | None,
) -> TrafficRow:
    row = TrafficRow(name=name, version=version, role=role, percent=percent, state=state, message=message)
    if counts is None:
        return row
    numbers = counts.model_dump(exclude={"name", "version", "seconds"})
    p50, p99 = (quantile(counts.seconds, share) for share in (0.5, 0.99))
    return row.model_copy(
        update={
            **numbers,
            "error_rate": error_rate(counts),
            "p50_ms": None if p50 is None else round(p50 * 1000, 3),
            "p99_ms": None if p99 is None else round(p99 * 1000, 3),
        }
    )
