"""The canary's policy, stepped by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.records.signals import TargetCounts
from lightmill.records.traffic import CanarySpec
from lightmill.serving.traffic.canary import Advance, CanaryStatus, RollBack, Stay, Succeed, judge
from lightmill.serving.traffic.counts import Counts

SPEC = CanarySpec(steps=(5, 50), bake_s=60, min_requests=100, max_error_rate=0.05, max_error_increase=0.02, p99_ms=200)


def counts(requests: int = 200, errors: int = 0, seconds: float = 0.005) -> TargetCounts:
    found = Counts("c", "5")
    for _ in range(errors):
        found.failed()
    for _ in range(requests - errors):
        found.answered(seconds)
    return found.record()


def status(candidate: TargetCounts | None, spec: CanarySpec = SPEC, **fields: Any) -> CanaryStatus:
    return CanaryStatus(spec=spec, candidate=candidate, **{"step": 0, "in_step_s": 61.0, **fields})


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        (status(None), Stay, "0 of at least 100"),
        (status(counts(99, 99)), Stay, "99 of at least 100"),
        (status(counts(), in_step_s=20.0), Stay, "40 s of this step"),
        (status(counts()), Advance, "200 requests without a breach at 5 %"),
        (status(counts(), step=1), Succeed, "at 50 %"),
        (status(counts(200, 11), in_step_s=1.0), RollBack, "5.50% of its requests failed (max_error_rate 5.00%)"),
        (status(counts(200, 10)), Advance, "without"),
        (status(counts(200, 10), stable=counts(200, 5)), RollBack, "2.50% of the stable"),
        (status(counts(200, 10), stable=counts(200, 6)), Advance, "without"),
        (status(counts(200, 10), stable=counts(50, 0)), Advance, "without"),
        (status(counts(200, 10), stable=counts(50), baseline=counts(200, 0)), RollBack, "0.00% of the stable"),
        (status(counts(seconds=0.3), in_step_s=1.0), RollBack, "(p99_ms 200)"),
        (status(counts(seconds=0.1), stable=counts(seconds=0.02)), RollBack, "(p99_ratio 2)"),
        (status(counts(seconds=0.1), stable=counts(seconds=0.08)), Advance, "without"),
        (status(counts(seconds=0.005), stable=counts(seconds=0.0003)), Advance, "without"),
        (status(counts(seconds=30), CanarySpec(p99_ratio=None, bake_s=0)), Advance, "without"),
        (status(counts(200, 200)), RollBack, "100.00%"),
    ],
)
def test_decisions(given: CanaryStatus, kind: type, said: str) -> None:
    decision = judge(given)
    assert isinstance(decision, kind) and said in decision.reason


def test_a_step_is_the_next_and_each_bakes_its_own_time() -> None:
    spec = CanarySpec(steps=(1, 2, 3), bake_s=(1, 10, 100))
    assert [type(judge(status(counts(), spec, step=step, in_step_s=20.0))) for step in range(3)] == [
        Advance, Advance, Stay,
    ]  # fmt: skip
    assert judge(status(counts(), spec, step=1)) == Advance(step=2, reason="200 requests without a breach at 2 %")


@given(
    requests=st.integers(0, 500),
    errors=st.integers(0, 500),
    stable=st.integers(0, 500),
    seconds=st.floats(0, 40),
    waited=st.floats(0, 100),
)
def test_more_errors_never_help_and_too_few_requests_decide_nothing(
    requests: int, errors: int, stable: int, seconds: float, waited: float
) -> None:
    def decided(errors: int) -> object:
        found = counts(requests, min(errors, requests), seconds)
        return judge(status(found, stable=counts(stable), in_step_s=waited))

    if requests < SPEC.min_requests:
        assert isinstance(decided(errors), Stay)
    elif isinstance(decided(errors), RollBack) and errors < requests and seconds <= 0.2:
        assert isinstance(decided(errors + 1), RollBack)
    if min(errors, requests) == 0 and seconds <= 0.01:
        assert not isinstance(decided(0), RollBack)
