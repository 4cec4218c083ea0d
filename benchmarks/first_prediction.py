"""From `lightmill demo` on a fresh home to the first correct HTTP prediction, in seconds."""

from __future__ import annotations

from benchmarks.figures import figure, note
from tests.platforms import temporary_platform

RUNS = 5
GOAL_S = 90.0


def main() -> None:
    """Measure whole demos, each on a home of its own, the platform started and stopped around it."""
    seconds = []
    for run in range(RUNS):
        with temporary_platform() as platform:
            found = platform.lightmill("demo", "examples/digits").json()
        seconds.append(found["seconds"])
        note(f"  run {run + 1}: {found['seconds']} s, accuracy {found['accuracy']:.4f}")
    figure("first_prediction", "s", seconds, goal=f"<= {GOAL_S:g} s", holds=lambda value: value <= GOAL_S)
