"""How the requests of an endpoint are shared among versions of its model.

`TrafficSpec` is what a user asks for in `endpoint.yaml`, `TrafficPlan` is what replicas are told. What became of it is
in `records.rollouts`, what replicas count in `records.signals`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lightmill.records.balancing import BalancingSpec
from lightmill.records.base import Record
from lightmill.records.masking import MaskingPolicy, PolicyName
from lightmill.records.references import VersionId, parse_reference
from lightmill.records.scaling import ReplicasSpec

STABLE = "stable"
"""The name, among candidates, of the version that the endpoint itself serves."""
CANDIDATES_MOST = 8
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


class StickySpec(Record):
    """What keeps a client with one version: the value of a header, its API key, or nothing.

    Without a value of the header, a request goes its own way.
    """

    by: Literal["none", "header", "key"] = "none"
    header: str = "x-session-id"

    @field_validator("header")
    @classmethod
    def _header(cls, value: str) -> str:
        return BalancingSpec(header=value).header


def _sticky(value: Any) -> Any:
    if isinstance(value, str):
        return {"by": value}
    if isinstance(value, dict) and set(value) == {"header"}:
        return {"by": "header", **value}
    return value


Sticky = Annotated[StickySpec, BeforeValidator(_sticky)]
"""`sticky: key` means `{by: key}`, and `sticky: {header: x-user}` means `{by: header, header: x-user}`."""


class CanarySpec(Record):
    """A candidate whose share grows by `steps` of percent, as long as it does no worse than it may.

    Each step lasts `bake_s` seconds at least (one number, or one a step) and `min_requests` of the candidate. From so
    many requests on it is judged, at every moment: its share of errors may be `max_error_rate` at most, and
    `max_error_increase` more than that of the stable version; its 99th percentile `p99_ms` at most, and `p99_ratio`
    times that of the stable version. One breach ends it. `on_success` moves the endpoint's alias, or waits for
    somebody to do so.
    """

    steps: tuple[float, ...] = Field(default=(1, 5, 25, 50, 100), min_length=1, max_length=32)
    bake_s: float | tuple[float, ...] = 300.0
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    max_error_increase: float = Field(default=0.005, ge=0, le=1)
    p99_ms: float | None = Field(default=None, gt=0)
    p99_ratio: float | None = Field(default=2.0, gt=1)
    min_requests: int = Field(default=100, ge=1)
    on_success: Literal["promote", "hold"] = "promote"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if any(not 0 < step <= 100 for step in self.steps):
            raise ValueError(f"steps {list(self.steps)} are percent of the requests; give numbers above 0, at most 100")
        if any(later <= earlier for earlier, later in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError(f"steps {list(self.steps)} do not grow; give them in order, each once")
        bakes = self.bake_s if isinstance(self.bake_s, tuple) else (self.bake_s,)
        if any(bake < 0 for bake in bakes):
            raise ValueError(f"bake_s {self.bake_s} has a time below 0; give seconds from 0")
        if isinstance(self.bake_s, tuple) and len(self.bake_s) != len(self.steps):
            raise ValueError(
                f"bake_s has {len(self.bake_s)} times for {len(self.steps)} steps; give one number, or one a step"
            )
        return self

    def bake_of(self, step: int) -> float:
        """Return how many seconds a step lasts at least."""
        return self.bake_s[step] if isinstance(self.bake_s, tuple) else self.bake_s


class CandidateSpec(Record):
    """A version beside the stable one, with replicas of its own.

    It has one of three roles: it answers `weight` percent of the requests; it is a `canary`; or it is a shadow, which
    is asked a share (`shadow`, 0 to 1) of what the stable version answers, and whose answers are compared and dropped.
    """

    name: str
    model: str
    weight: float | None = Field(default=None, ge=0, le=100)
    canary: CanarySpec | None = None
    shadow: float | None = Field(default=None, gt=0, le=1)
    replicas: ReplicasSpec = ReplicasSpec()

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not _NAME.fullmatch(value) or value == STABLE:
            raise ValueError(
                f"{value!r} cannot name a candidate: use 1 to 32 of a-z, 0-9 and '-', beginning and ending with a "
                f"letter or digit; {STABLE!r} is taken"
            )
        return value

    @field_validator("model")
    @classmethod
    def _model(cls, value: str) -> str:
        return str(parse_reference(value))

    @model_validator(mode="after")
    def _one_role(self) -> Self:
        given = [role for role in ("weight", "canary", "shadow") if getattr(self, role) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "no role"
            raise ValueError(f"candidate {self.name!r} has {said}; give it one of weight, canary and shadow")
        if self.shadow is None and self.replicas.min == 0:
            raise ValueError(f"candidate {self.name!r} answers requests; its replicas.min must be 1 at least")
        return self

    @property
    def role(self) -> Literal["weight", "canary", "shadow"]:
        """What it is there for."""
        if self.canary is not None:
            return "canary"
        return "weight" if self.shadow is None else "shadow"

    @property
    def most_percent(self) -> float:
        """The largest share of answers that it may come to."""
        return self.canary.steps[-1] if self.canary else self.weight or 0.0


class CompareSpec(Record):
    """When two answers are the same: numbers within `atol + rtol * |stable|`, whole numbers and texts equal.

    `classes_only` leaves probabilities alone as long as the likeliest class is the same.
    """

    rtol: float = Field(default=1e-3, ge=0)
    atol: float = Field(default=1e-5, ge=0)
    classes_only: bool = False


class DifferencesSpec(Record):
    """What is kept of shadows that answered otherwise; see docs/traffic.md.

    Without a `masking` policy nothing of a row is kept, only where and by how much answers differ.
    """

    masking: PolicyName = ""
    rows_per_request: int = Field(default=10, ge=1, le=1000)
    part_rows: int = Field(default=1000, ge=1, le=100_000)
    part_s: float = Field(default=60.0, ge=1)
    buffer_bytes: int = Field(default=4 << 20, ge=1 << 16, le=1 << 28)


class TrafficSpec(Record):
    """`traffic` in `endpoint.yaml`: the candidates, and who gets which.

    Attributes:
        timeout_s: How long the answer of a candidate is waited for before the stable version answers.
        shadow_in_flight: How many requests a replica has with shadows at once; more are dropped and counted.
    """

    candidates: tuple[CandidateSpec, ...]
    sticky: Sticky = StickySpec()
    timeout_s: float = Field(default=10.0, gt=0, le=600)
    shadow_in_flight: int = Field(default=32, ge=1, le=4096)
    compare: CompareSpec = CompareSpec()
    differences: DifferencesSpec = DifferencesSpec()

    @model_validator(mode="after")
    def _together(self) -> Self:
        if not 1 <= len(self.candidates) <= CANDIDATES_MOST:
            raise ValueError(
                f"candidates has {len(self.candidates)} entries; name 1 to {CANDIDATES_MOST}, or leave traffic out"
            )
        names = [candidate.name for candidate in self.candidates]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"candidates have the name {twice[0]!r} twice; give each a name of its own")
        canaries = [candidate.name for candidate in self.candidates if candidate.canary]
        if len(canaries) > 1:
            raise ValueError(f"candidates {', '.join(canaries)} are canaries; an endpoint has one at a time")
        total = sum(candidate.most_percent for candidate in self.candidates)
        if total > 100:
            raise ValueError(
                f"candidates take {total:g} percent together (weights, and the last step of the canary); leave it at "
                "100 at most"
            )
        return self

    @property
    def canary(self) -> CandidateSpec | None:
        """The candidate that is a canary, if one is."""
        return next((candidate for candidate in self.candidates if candidate.canary), None)

    def named(self, name: str) -> CandidateSpec | None:
        """Return the candidate of a name, if there is one."""
        return next((candidate for candidate in self.candidates if candidate.name == name), None)


class TrafficTarget(Record):
    """A candidate that can be asked: `percent` of the requests are its, of `shadow` of the others it gets a copy."""

    name: str
    application: str
    version: VersionId
    percent: float = Field(default=0.0, ge=0, le=100)
    shadow: float = Field(default=0.0, ge=0, le=1)
    canary: bool = False


class TrafficPlan(Record):
    """What the replicas of a stable version are told to do. Counts start anew with each `generation`."""

    endpoint: str
    generation: int
    targets: tuple[TrafficTarget, ...]
    sticky: StickySpec = StickySpec()
    timeout_s: float = 10.0
    shadow_in_flight: int = 32
    compare: CompareSpec = CompareSpec()
    differences: DifferencesSpec = DifferencesSpec()
    masking: MaskingPolicy | None = None
