"""What replicas tell the control plane of their requests."""

from __future__ import annotations

from pydantic import Field

from lightmill.records.base import Record
from lightmill.records.masking import MaskingPolicy


class Distribution(Record):
    """Values by class: `counts` has one more than `bounds`, the upper ends of the classes; `total` is their sum."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class TargetCounts(Record):
    """What one version did, as the stable version's replicas saw it.

    Attributes:
        name: The candidate, or `stable`.
        version: The number of the version.
        requests: Those that were sent to it to be answered.
        errors: Those of them that failed by its fault: an answer of 5xx, none in time, or a refusal of what the stable
            version takes.
        fallbacks: Those of the errors that the stable version answered then.
        seconds: Times of its answers, without the way to it.
        shadows: Copies that it answered.
        shadow_errors: Copies that it failed on.
        shadow_dropped: Copies that were not sent, since too many were under way.
        differed: Copies whose answer differed.
    """

    name: str
    version: str
    requests: int = 0
    errors: int = 0
    fallbacks: int = 0
    seconds: Distribution | None = None
    shadows: int = 0
    shadow_errors: int = 0
    shadow_dropped: int = 0
    differed: int = 0


class TrafficSignals(Record):
    """What a replica of the stable version counted: of this generation of the plan, and since it started."""

    generation: int
    window: tuple[TargetCounts, ...] = ()
    totals: tuple[TargetCounts, ...] = ()


class ReplicaSignals(Record):
    """What one replica did since it started.

    Attributes:
        requests: (protocol, status, count).
        errors: Counts by the class of the error.
        seconds: Latencies by phase: queue, batch_wait, compute, total.
        batches: Rows of each batch.
        dropped: Lines and rows that did not fit a log's queue, by log.
        seen: When keys were last used, by their ids.
        traffic: What became of requests by version, where the endpoint has candidates.
    """

    endpoint: str
    version: str
    replica: str
    requests: tuple[tuple[str, int, int], ...] = ()
    errors: dict[str, int] = Field(default_factory=dict)
    seconds: dict[str, Distribution] = Field(default_factory=dict)
    batches: Distribution
    rows: int = 0
    tokens: int = 0
    running: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)
    seen: dict[str, str] = Field(default_factory=dict)
    at: float = 0.0
    traffic: TrafficSignals | None = None


class SignalsConfig(Record):
    """What a deployment decides of its replicas' signals.

    Attributes:
        masking: The policy that the endpoint's prediction log names.
        trace_url: The collector of traces (OTLP over HTTP); none without it.
        trace_ratio: The share of requests without a `traceparent` that are traced.
    """

    masking: MaskingPolicy | None = None
    trace_url: str = ""
    trace_ratio: float = Field(default=0.0, ge=0, le=1)
