"""Whether a canary goes on. Pure: what was counted in a step in, a decision out; nothing here knows time or Ray.

A breach counts at once, from `min_requests` on; a step is over when it has lasted its time and has had its requests.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightmill.records.signals import TargetCounts
from lightmill.records.traffic import CanarySpec
from lightmill.serving.traffic.counts import quantile

SMALL_S = 0.01
"""A 99th percentile below this is never too slow by a ratio: on a model of microseconds, noise is a ratio of ten."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryStatus:
    """A canary in one of its steps.

    `stable` is what the stable version did beside it; where it had too little to do, `baseline` counts, what it did
    in an earlier step.
    """

    spec: CanarySpec
    step: int
    in_step_s: float
    candidate: TargetCounts | None
    stable: TargetCounts | None = None
    baseline: TargetCounts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """The step goes on."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """The next step begins."""

    step: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeed:
    """All steps are over, and nothing was wrong."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """The candidate does worse than it may."""

    reason: str


Decision = Stay | Advance | Succeed | RollBack


def judge(status: CanaryStatus) -> Decision:
    """Return what to do about a canary now."""
    spec, found = status.spec, status.candidate
    requests = found.requests if found else 0
    if found is None or requests < spec.min_requests:
        return Stay(reason=f"{requests} of at least {spec.min_requests} requests of this step")
    breach = _errors(status, found) or _latency(status, found)
    if breach:
        return RollBack(reason=f"{breach}, after {requests} requests at {spec.steps[status.step]:g} %")
    wait_s = spec.bake_of(status.step) - status.in_step_s
    if wait_s > 0:
        return Stay(reason=f"{requests} requests without a breach; {wait_s:.0f} s of this step are left")
    said = f"{requests} requests without a breach at {spec.steps[status.step]:g} %"
    if status.step + 1 < len(spec.steps):
        return Advance(step=status.step + 1, reason=said)
    return Succeed(reason=said)


def error_rate(counts: TargetCounts) -> float:
    """Return the share of errors, 0 to 1."""
    return counts.errors / counts.requests if counts.requests else 0.0


def compared_with(status: CanaryStatus) -> TargetCounts | None:
    """Return the stable version's counts that the canary is held against, None if it never had enough requests."""
    for found in (status.stable, status.baseline):
        if found and found.requests >= status.spec.min_requests:
            return found
    return None


def _errors(status: CanaryStatus, found: TargetCounts) -> str:
    spec, rate = status.spec, error_rate(found)
    if rate > spec.max_error_rate:
        return f"{rate:.2%} of its requests failed (max_error_rate {spec.max_error_rate:.2%})"
    stable = compared_with(status)
    if stable and rate - error_rate(stable) > spec.max_error_increase + _ROUNDING:
        return (
            f"{rate:.2%} of its requests failed, and {error_rate(stable):.2%} of the stable version's "
            f"(max_error_increase {spec.max_error_increase:.2%})"
        )
    return ""


def _latency(status: CanaryStatus, found: TargetCounts) -> str:
    spec = status.spec
    p99_s = quantile(found.seconds, 0.99)
    if p99_s is None:
        return ""
    if spec.p99_ms is not None and p99_s * 1000 > spec.p99_ms:
        return f"its 99th percentile is {p99_s * 1000:.1f} ms (p99_ms {spec.p99_ms:g})"
    stable = compared_with(status)
    other_s = quantile(stable.seconds, 0.99) if stable else None
    if spec.p99_ratio is not None and other_s and p99_s > SMALL_S and p99_s > spec.p99_ratio * other_s:
        return (
            f"its 99th percentile is {p99_s * 1000:.1f} ms, and {other_s * 1000:.1f} ms the stable version's "
            f"(p99_ratio {spec.p99_ratio:g})"
        )
    return ""
