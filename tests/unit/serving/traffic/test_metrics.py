"""Traffic in the text that Prometheus reads: the names are promised, the labels bounded."""

from __future__ import annotations

from lightmill.records.signals import TrafficSignals
from lightmill.serving.signals.exposition import render
from lightmill.serving.signals.recorder import Recorder
from lightmill.serving.traffic.counts import Counts
from tests.unit.serving.signals.test_metrics import parsed

OWN = ("digits", "4", "r1")


def test_versions_and_shadows_have_series_of_their_own() -> None:
    following, shadow = Counts("next", "5"), Counts("shade", "6")
    for _ in range(3):
        following.answered(0.002)
    following.failed()
    following.fallbacks += 1
    shadow.shadows, shadow.differed, shadow.shadow_dropped = 5, 2, 1
    recorder = Recorder(*OWN)
    recorder.traffic = lambda: TrafficSignals(generation=3, totals=(following.record(), shadow.record()))
    found = parsed(render([recorder.snapshot()]))
    assert found["lightmill_traffic_requests_total"] == {
        (*OWN, "next", "5", "answered"): 3,
        (*OWN, "next", "5", "failed"): 1,
    }
    assert found["lightmill_traffic_fallbacks_total"] == {(*OWN, "next", "5"): 1}
    assert found["lightmill_traffic_seconds_count"] == {(*OWN, "next", "5"): 3}
    assert found["lightmill_traffic_shadows_total"] == {
        (*OWN, "shade", "6", outcome): count
        for outcome, count in {"differed": 2, "same": 3, "failed": 0, "dropped": 1}.items()
    }


def test_a_replica_without_candidates_shows_none() -> None:
    assert "traffic" not in render([Recorder(*OWN).snapshot()])
