from __future__ import annotations

from lightmill.training.exchange import Exchange
from lightmill.training.pacing import Due, Pace
from lightmill.training.team import Team


def test_reports_and_checkpoints_keep_their_distance_and_the_final_epoch_has_both() -> None:
    now = [0.0]
    pace = Pace(Exchange(Team.alone()), 5.0, lambda: now[0])

    def at(seconds: float, *, final: bool = False) -> Due:
        now[0] = seconds
        return pace.due(final=final)

    assert at(0.9) == Due(report=False, seal=False)
    assert at(1.1) == Due(report=True, seal=False)
    assert at(1.9) == Due(report=False, seal=False)
    assert at(5.0) == Due(report=True, seal=True)
    assert at(5.2) == Due(report=False, seal=False)
    assert at(5.3, final=True) == Due(report=True, seal=True)


def test_without_a_pause_every_epoch_is_reported_and_sealed() -> None:
    pace = Pace(Exchange(Team.alone()), 0.0, lambda: 1.0)
    assert [pace.due(final=False) for _ in range(3)] == [Due(report=True, seal=True)] * 3
