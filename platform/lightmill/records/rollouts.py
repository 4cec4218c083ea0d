"""How far the candidates of an endpoint have come, which the control loop keeps, and what people see of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from lightmill.records.base import Record
from lightmill.records.references import VersionId
from lightmill.records.signals import TargetCounts
from lightmill.records.traffic import TrafficSpec

EVENTS_MOST = 50


class TrafficPhase(StrEnum):
    """What is going on with the candidates of an endpoint."""

    SERVING = "serving"
    """Candidates have the shares that were asked for; there is no canary."""
    STARTING = "starting"
    """The canary's replicas start; it has no share yet."""
    RUNNING = "running"
    """The canary has the share of its step, and is judged."""
    HOLDING = "holding"
    """The canary went through all steps, and waits for `promote` or `rollback`."""
    PROMOTING = "promoting"
    """The alias was moved; the candidate keeps its share until the stable version's replicas have followed."""
    PROMOTED = "promoted"
    """The endpoint itself serves what was the candidate."""
    ROLLED_BACK = "rolled_back"
    """The candidate has no share any more; the reason says why."""


class TrafficEvent(Record):
    """Something that was decided."""

    at: str
    phase: TrafficPhase
    reason: str


class TrafficState(Record):
    """How far an endpoint's candidates have come; it outlives the control process.

    Attributes:
        spec: What was asked for when it began; when that changes, it begins anew.
        generation: Grows with each change of shares, so that counts of different shares are not mixed.
        stable: The version that the endpoint served when the step began.
        versions: The versions that candidates' references selected, by name.
        candidate: The canary, or whoever is being promoted.
        step: The canary's, from 0.
        since: When the step began, in seconds since 1970.
        reason: Why it is as it is, for people.
        baseline: The stable version's counts of the last step in which it had enough.
        apps: What Serve says of each candidate's replicas, for people.
        events: What was decided, newest last.
    """

    spec: TrafficSpec
    generation: int = 1
    phase: TrafficPhase = TrafficPhase.SERVING
    stable: VersionId | None = None
    versions: dict[str, VersionId] = Field(default_factory=dict)
    candidate: str = ""
    step: int = 0
    since: float = 0.0
    reason: str = ""
    baseline: TargetCounts | None = None
    apps: dict[str, str] = Field(default_factory=dict)
    events: tuple[TrafficEvent, ...] = ()


class TrafficAsked(Record):
    """What somebody asks the control loop to do with a candidate."""

    what: Literal["promote", "rollback"]
    candidate: str
    at: str = ""


class TrafficRow(Record):
    """One version in a report: its share in percent, and its counts since shares last changed; times in ms."""

    name: str
    version: VersionId | None
    role: str
    percent: float
    state: str
    message: str = ""
    requests: int = 0
    errors: int = 0
    error_rate: float = 0.0
    fallbacks: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    shadows: int = 0
    shadow_errors: int = 0
    shadow_dropped: int = 0
    differed: int = 0


class TrafficReport(Record):
    """What `lightmill traffic` shows. `step` and `steps` are the canary's; `reason` is the last decision's."""

    endpoint: str
    rows: tuple[TrafficRow, ...]
    phase: TrafficPhase | None = None
    step: int | None = None
    steps: tuple[float, ...] = ()
    reason: str = ""
    events: tuple[TrafficEvent, ...] = ()


class ShadowDifference(Record):
    """A row that a shadow answered otherwise; `values` are there only where a masking policy was named, masked by it.

    Attributes:
        row: Its place in the request; -1 where whole outputs cannot be held against each other.
        output: Which output differed.
        kind: `class`, `value`, `shape`, `datatype` or `missing`.
        absolute: The largest difference of numbers in this row.
        relative: The same over the stable version's number.
    """

    at: str
    request: str
    candidate: str
    stable_version: str
    candidate_version: str
    row: int
    output: str
    kind: str
    absolute: float | None = None
    relative: float | None = None
    values: dict[str, Any] = Field(default_factory=dict)
