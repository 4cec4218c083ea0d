from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from lightmill.records.jobs import EpochMetrics
from lightmill.training.following import EpochFollower, EpochWriter


def told(*epochs: dict[str, float]) -> dict[str, Any]:
    return {"epochs": [*epochs]}


def test_what_the_controller_writes_reaches_the_driver_in_order_and_once(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    found: list[EpochMetrics] = []
    seen = threading.Event()

    def on_epoch(metrics: EpochMetrics) -> None:
        found.append(metrics)
        seen.set()

    with EpochFollower(path, on_epoch):
        writer = EpochWriter("r", path)
        writer.after_report(None, [told({"epoch": 1, "loss": 0.5}), told({"loss": 9})], None)
        assert seen.wait(30)
        for epoch in (2, 3):
            writer.after_report(None, [told({"epoch": epoch, "loss": 0.5 / epoch})], None)
    assert [(m.run, m.epoch, m.metrics) for m in found] == [
        ("r", 1, {"loss": 0.5}),
        ("r", 2, {"loss": 0.25}),
        ("r", 3, {"loss": 0.5 / 3}),
    ]


def test_epochs_reported_again_are_written_where_they_were_lost(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    found: list[int] = []
    again = [{"epoch": epoch, "loss": 0.5} for epoch in (1, 2, 3)]
    with EpochFollower(path, lambda metrics: found.append(metrics.epoch)):
        EpochWriter("r", path).after_report(None, [told({"epoch": 1, "loss": 0.5})], None)
        EpochWriter("r", path).after_report(None, [{"again": again}], None)
    assert found == [1, 2, 3]


def test_a_line_that_is_not_finished_waits(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    found: list[int] = []
    follower = EpochFollower(path, lambda metrics: found.append(metrics.epoch))
    line = EpochMetrics(run="r", epoch=4, metrics={}, created="").model_dump_json()
    with follower:
        path.write_text(line[:10])
    assert found == []
    path.write_text(line + "\n")
    follower._read()
    follower._read()
    assert found == [4]
