"""Plans on their way from the control plane to replicas."""

from __future__ import annotations

import itertools

from lightmill.records.traffic import TrafficPlan
from lightmill.serving.application import application_name, candidate_application, candidate_of
from lightmill.serving.board import MemoryBoard
from lightmill.serving.traffic.breaker import FAILURES, PAUSE_MOST_S, Breaker
from lightmill.serving.traffic.following import PlanWatcher, write_plan
from tests.unit.serving.traffic.plans import plan, target


def test_a_plan_is_applied_when_it_changes_and_ends_when_it_goes() -> None:
    board, applied = MemoryBoard(), list[TrafficPlan | None]()
    watcher = PlanWatcher(board, "digits", applied.append)
    assert not watcher.step()
    first, second = plan(target("c", 5.0)), plan(target("c", 10.0), generation=2)
    assert write_plan(board, "digits", first) and not write_plan(board, "digits", first)
    assert watcher.step() and not watcher.step()
    assert write_plan(board, "digits", second) and write_plan(board, "other", first)
    assert watcher.step()
    assert write_plan(board, "digits", None) and not write_plan(board, "digits", None)
    assert watcher.step()
    assert applied == [first, second, None]


def test_applications_of_candidates_are_told_from_those_of_endpoints() -> None:
    assert candidate_of(candidate_application("a.b-c", "next-1")) == ("a.b-c", "next-1")
    assert candidate_of(application_name("candidate-x")) is None and candidate_of("control") is None


def test_the_breaker_opens_after_failures_in_a_row_and_tries_less_and_less() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.failed(0.0)
    breaker.worked()
    tried = []
    for tenth in range(2000):
        now = tenth / 10
        if breaker.lets(now):
            tried.append(now)
            breaker.failed(now)
    gaps = [later - sooner for sooner, later in itertools.pairwise(tried)]
    assert tried[:FAILURES] == [0.0, 0.1, 0.2] and [round(gap) for gap in gaps[2:6]] == [1, 2, 4, 8]
    assert round(gaps[-1]) == PAUSE_MOST_S
    breaker.worked()
    assert breaker.lets(0.0)
