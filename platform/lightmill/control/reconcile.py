"""What to do about endpoints. A pure decision: what should be and what is seen in, actions out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightmill.records.endpoints import Endpoint, EndpointState
from lightmill.records.references import VersionId


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What Ray Serve reports of an endpoint's application. `status` is Serve's own word."""

    status: str
    replicas: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An endpoint with the version that its reference selects now, or why it selects none."""

    endpoint: Endpoint
    version: VersionId | None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A deployment that could not even be handed to Serve, and why."""

    mark: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deploy:
    """Bring an endpoint up, or roll it to what it should be; nothing happens to one that is so already."""

    wanted: Wanted
    mark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Take an endpoint's application away."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Remove the row of a deleted endpoint whose application is gone."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observe:
    """Write down what an endpoint does now; `revision` is the one that was looked at."""

    name: str
    revision: int
    state: EndpointState
    version: VersionId | None
    replicas: int
    message: str


Action = Deploy | Remove | Forget | Observe
_STATES = {
    "DEPLOYING": EndpointState.DEPLOYING,
    "NOT_STARTED": EndpointState.DEPLOYING,
    "RUNNING": EndpointState.READY,
    "UNHEALTHY": EndpointState.UNHEALTHY,
    "DEPLOY_FAILED": EndpointState.FAILED,
    "DELETING": EndpointState.DELETING,
}


def mark_of(wanted: Wanted, keys_digest: str) -> str:
    """Return what identifies a deployment: revision, version and keys. Equal marks need no action."""
    digest = wanted.version.digest if wanted.version else ""
    return f"{wanted.endpoint.revision}/{digest}/{keys_digest}"


def reconcile(
    wanted: Sequence[Wanted],
    seen: Mapping[str, Seen],
    deployed: Mapping[str, str],
    keys_digest: str,
    refused: Mapping[str, Refusal] | None = None,
) -> list[Action]:
    """Return the actions that bring `seen` towards `wanted`.

    Args:
        wanted: Every endpoint of the catalog.
        seen: Every endpoint that Serve runs, by name.
        deployed: The marks of what this process deployed last, by name.
        keys_digest: Identifies the present set of API keys.
        refused: What could not be deployed lately, by name; it is not tried again while it stands here.
    """
    actions: list[Action] = []
    for entry in wanted:
        name = entry.endpoint.name
        if entry.endpoint.deleted:
            actions.append(Remove(name=name) if name in seen else Forget(name=name))
            continue
        mark = mark_of(entry, keys_digest)
        refusal = (refused or {}).get(name)
        if refusal and refusal.mark == mark:
            actions.append(_failed(entry, seen.get(name), refusal.message))
            continue
        if entry.version and (deployed.get(name) != mark or name not in seen):
            actions.append(Deploy(wanted=entry, mark=mark))
        actions.append(_observe(entry, seen.get(name), deployed.get(name) == mark))
    known = {entry.endpoint.name for entry in wanted}
    actions += [Remove(name=name) for name in seen if name not in known]
    return actions


def _failed(entry: Wanted, seen: Seen | None, message: str) -> Observe:
    return Observe(
        name=entry.endpoint.name,
        revision=entry.endpoint.revision,
        state=EndpointState.FAILED,
        version=entry.endpoint.version,
        replicas=seen.replicas if seen else 0,
        message=message,
    )


def _observe(entry: Wanted, seen: Seen | None, current: bool) -> Observe:
    endpoint = entry.endpoint
    if entry.version is None:
        state = EndpointState.FAILED if seen is None else _STATES.get(seen.status, EndpointState.UNHEALTHY)
        return Observe(
            name=endpoint.name,
            revision=endpoint.revision,
            state=state,
            version=endpoint.version,
            replicas=seen.replicas if seen else 0,
            message=entry.problem,
        )
    if seen is None or not current:
        return Observe(
            name=endpoint.name,
            revision=endpoint.revision,
            state=EndpointState.DEPLOYING,
            version=endpoint.version,
            replicas=seen.replicas if seen else 0,
            message="",
        )
    state = _STATES.get(seen.status, EndpointState.UNHEALTHY)
    answers = entry.version if state is EndpointState.READY else endpoint.version
    return Observe(
        name=endpoint.name,
        revision=endpoint.revision,
        state=state,
        version=answers,
        replicas=seen.replicas,
        message="" if state is EndpointState.READY else seen.message,
    )
