"""What to do about the candidates of one endpoint. Pure: what should be and what is seen in, the next state out.

    STARTING -> RUNNING -> PROMOTING -> PROMOTED    replicas run; every step went well; the stable version followed
                RUNNING -> HOLDING -> PROMOTING     every step went well, and somebody is to decide
    any of them -> ROLLED_BACK                      replicas do not start; a breach; by hand

An endpoint without a canary is SERVING. When the specification or a version that is selected changes, it begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lightmill.control.reconcile import Seen
from lightmill.records.base import iso_of
from lightmill.records.endpoints import Endpoint, EndpointState
from lightmill.records.references import VersionId
from lightmill.records.rollouts import EVENTS_MOST, TrafficAsked, TrafficEvent, TrafficPhase, TrafficState
from lightmill.records.signals import TargetCounts
from lightmill.records.traffic import STABLE, CanarySpec, CandidateSpec, TrafficSpec
from lightmill.serving.traffic.canary import Advance, CanaryStatus, RollBack, Stay, Succeed, compared_with, judge

P = TrafficPhase
ENDED = (P.PROMOTED, P.ROLLED_BACK)
RUNNING, GAVE_UP = "RUNNING", "DEPLOY_FAILED"
Counted = Mapping[tuple[str, str], TargetCounts]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is known of an endpoint with candidates at this moment.

    Attributes:
        endpoint: What should be, and which version answers.
        spec: Its traffic.
        follows: The version that its own reference selects; None if that cannot be told now.
        selected: The versions that candidates' references select, by name; those that cannot be told now are left out.
        seen: What Serve reports of the candidates' applications, by name.
        counts: What was counted since shares last changed, by candidate and number of the version.
        now_s: Seconds since 1970.
        asked: What somebody wants done.
    """

    endpoint: Endpoint
    spec: TrafficSpec
    follows: VersionId | None
    selected: Mapping[str, VersionId]
    seen: Mapping[str, Seen] = field(default_factory=dict)
    counts: Counted = field(default_factory=dict)
    now_s: float = 0.0
    asked: TrafficAsked | None = None

    def counted(self, name: str, version: VersionId | None) -> TargetCounts | None:
        """Return what was counted of a version."""
        return self.counts.get((name, str(version.seq))) if version else None

    def status(self, name: str) -> str:
        """Return Serve's word for a candidate's application, empty if there is none."""
        found = self.seen.get(name)
        return found.status if found else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote:
    """Move the endpoint's alias to this version; the endpoint follows it."""

    candidate: str
    version: VersionId


def advance(state: TrafficState | None, view: View) -> tuple[TrafficState, Promote | None]:
    """Return the next state, and the promotion that it needs, if it needs one.

    A promotion is to be carried out before the state is written; one that fails is told by `not_promoted`.
    """
    state = _begun(state, view)
    if view.asked is not None:
        return _as_asked(state, view, view.asked)
    match state.phase:
        case P.STARTING:
            return _starting(state, view), None
        case P.RUNNING | P.HOLDING:
            return _judged(state, view)
        case P.PROMOTING | P.PROMOTED:
            return _promoting(state, view), None
        case _:
            return state, None


def not_promoted(state: TrafficState, reason: str, now_s: float) -> TrafficState:
    """Return the state after a promotion that could not be carried out: it waits for people."""
    return _moved(state, now_s, P.HOLDING, f"it could not be promoted: {reason}")


def percent_of(state: TrafficState, candidate: CandidateSpec) -> float:
    """Return the share of requests that a candidate should have now, were it reached."""
    if candidate.canary is None:
        over = state.candidate == candidate.name and state.phase is P.PROMOTED
        return 0.0 if over else candidate.weight or 0.0
    if state.phase in (P.RUNNING, P.HOLDING, P.PROMOTING):
        return candidate.canary.steps[state.step]
    return 0.0


def is_needed(state: TrafficState, candidate: CandidateSpec) -> bool:
    """Return whether a candidate should have replicas."""
    if candidate.canary is not None or state.candidate == candidate.name:
        return state.phase not in ENDED
    return candidate.shadow is not None or bool(candidate.weight)


# -- phases -----------------------------------------------------------------


def _begun(state: TrafficState | None, view: View) -> TrafficState:
    """Return the state to go on from: a new one where something else is asked for, or another version is selected."""
    stable = view.endpoint.version
    if state is None or state.spec != view.spec or _differ(state.versions, view.selected):
        return _new(state, view, stable)
    state = state.model_copy(update={"versions": {**state.versions, **view.selected}})
    if state.phase in (P.RUNNING, P.HOLDING, P.STARTING) and stable != state.stable and stable is not None:
        if stable == state.versions.get(state.candidate):
            return _moved(state, view.now_s, P.PROMOTED, f"the endpoint serves {stable} itself", stable=stable)
        if state.stable is None or state.phase is P.STARTING:
            return state.model_copy(update={"stable": stable})
        return _moved(
            state, view.now_s, state.phase, f"the step begins anew beside {stable}", stable=stable, baseline=None
        )
    return state


def _new(state: TrafficState | None, view: View, stable: VersionId | None) -> TrafficState:
    canary = view.spec.canary
    begun = TrafficState(
        spec=view.spec,
        generation=state.generation if state else 0,
        stable=stable,
        versions=dict(view.selected),
        candidate=canary.name if canary else "",
        events=state.events if state else (),
    )
    if canary is None:
        return _moved(begun, view.now_s, P.SERVING, "shares as specified")
    version = view.selected.get(canary.name)
    if version is not None and version in (stable, view.follows):
        return _moved(begun, view.now_s, P.PROMOTED, f"the endpoint serves {version} itself")
    return _moved(begun, view.now_s, P.STARTING, f"replicas of {version or canary.model} start")


def _starting(state: TrafficState, view: View) -> TrafficState:
    status = view.status(state.candidate)
    if status == GAVE_UP:
        message = view.seen[state.candidate].message
        return _moved(state, view.now_s, P.ROLLED_BACK, f"it did not start: {message}")
    if status == RUNNING and state.candidate in state.versions:
        first = _canary_of(state).steps[0]
        return _moved(state, view.now_s, P.RUNNING, f"its replicas run; it begins with {first:g} %")
    return state


def _judged(state: TrafficState, view: View) -> tuple[TrafficState, Promote | None]:
    spec, version = _canary_of(state), state.versions[state.candidate]
    status = CanaryStatus(
        spec=spec,
        step=state.step,
        in_step_s=view.now_s - state.since,
        candidate=view.counted(state.candidate, version),
        stable=view.counted(STABLE, state.stable),
        baseline=state.baseline,
    )
    kept = compared_with(status)
    decision = judge(status)
    if isinstance(decision, RollBack):
        return _moved(state, view.now_s, P.ROLLED_BACK, decision.reason), None
    if state.phase is P.HOLDING or isinstance(decision, Stay):
        return state, None
    if isinstance(decision, Advance):
        said = f"{decision.reason}; on to {spec.steps[decision.step]:g} %"
        return _moved(state, view.now_s, P.RUNNING, said, step=decision.step, baseline=kept), None
    assert isinstance(decision, Succeed)  # noqa: S101 - the fourth of four
    if spec.on_success == "hold":
        return _moved(state, view.now_s, P.HOLDING, f"{decision.reason}; it waits for promote or rollback"), None
    return _promoted(state, view, state.candidate, version, decision.reason)


def _promoting(state: TrafficState, view: View) -> TrafficState:
    target = state.versions.get(state.candidate)
    if view.follows is not None and view.follows != target:
        return _moved(state, view.now_s, P.ROLLED_BACK, f"the endpoint was moved on to {view.follows}")
    if state.phase is P.PROMOTED:
        return state
    if view.endpoint.state is EndpointState.READY and view.endpoint.version == target:
        return _moved(state, view.now_s, P.PROMOTED, f"the endpoint serves {target} itself", stable=target)
    return state


def _as_asked(state: TrafficState, view: View, asked: TrafficAsked) -> tuple[TrafficState, Promote | None]:
    version = state.versions.get(asked.candidate)
    if asked.what == "rollback":
        if state.phase in ENDED or asked.candidate != state.candidate:
            return state, None
        return _moved(state, view.now_s, P.ROLLED_BACK, "rolled back by hand"), None
    if version is None or state.phase is P.PROMOTING or version == view.follows:
        return state, None
    return _promoted(state, view, asked.candidate, version, "promoted by hand")


def _promoted(
    state: TrafficState, view: View, candidate: str, version: VersionId, reason: str
) -> tuple[TrafficState, Promote]:
    moved = _moved(state, view.now_s, P.PROMOTING, f"{reason}; the alias moves to {version}", candidate=candidate)
    return moved, Promote(candidate=candidate, version=version)


def _moved(state: TrafficState, now_s: float, phase: TrafficPhase, reason: str, **fields: object) -> TrafficState:
    """Return a state that something was decided about: counts start anew, and it is written down."""
    event = TrafficEvent(at=iso_of(now_s), phase=phase, reason=reason)
    update: dict[str, object] = {
        "phase": phase,
        "reason": reason,
        "since": now_s,
        "generation": state.generation + 1,
        "events": (*state.events, event)[-EVENTS_MOST:],
        **fields,
    }
    return state.model_copy(update=update)


def _canary_of(state: TrafficState) -> CanarySpec:
    found = state.spec.named(state.candidate)
    assert found is not None and found.canary is not None  # noqa: S101 - only canaries have these phases
    return found.canary


def _differ(before: Mapping[str, VersionId], now: Mapping[str, VersionId]) -> bool:
    return any(name in before and before[name] != version for name, version in now.items())
