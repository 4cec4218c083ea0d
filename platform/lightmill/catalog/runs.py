"""Metrics by epoch and by step, as the terminal and the notebook plot them.

Points of steps are bounded: where a run has more than STEP_POINTS_MAX, one is kept for each of at most half
as many equal parts of its steps, so that what is left stays even over the run.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, select

from lightmill.catalog.database import Database, as_record, insert_into
from lightmill.catalog.tables import epochs, steps
from lightmill.records.jobs import STEP_POINTS_MAX, EpochMetrics, RunMetrics, StepMetrics

_DELETED_AT_ONCE = 500


class Runs:
    """The metrics history of runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record_epoch(self, metrics: EpochMetrics) -> None:
        """Keep the metrics of an epoch. A run that resumed reports an epoch again: the last report stays."""
        with self._database.write() as connection:
            statement = insert_into(connection, epochs).values(metrics.model_dump(mode="json"))
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["run", "epoch"],
                    set_={"metrics": statement.excluded.metrics, "created": statement.excluded.created},
                )
            )

    def epochs(self, run: str) -> list[EpochMetrics]:
        """Return the epochs of a run in order; none when nothing was reported yet."""
        query = select(epochs).where(epochs.c.run == run).order_by(epochs.c.epoch)
        with self._database.read() as connection:
            return [as_record(EpochMetrics, row) for row in connection.execute(query).mappings()]

    def record_steps(self, points: Sequence[StepMetrics], most: int = STEP_POINTS_MAX) -> None:
        """Keep points of steps of one run, all or none. A step that a resumed run did again: the last report stays."""
        if not points:
            return
        with self._database.write() as connection:
            statement = insert_into(connection, steps)
            changed = {name: statement.excluded[name] for name in ("epoch", "metrics", "created")}
            connection.execute(
                statement.on_conflict_do_update(index_elements=["run", "step"], set_=changed),
                [point.model_dump(mode="json") for point in points],
            )
            _thin(connection, points[0].run, most)

    def steps(self, run: str, *, after: int = 0, limit: int | None = None) -> list[StepMetrics]:
        """Return the points of steps of a run in order: those after step `after`, at most `limit`."""
        query = select(steps).where(steps.c.run == run, steps.c.step > after).order_by(steps.c.step).limit(limit)
        with self._database.read() as connection:
            return [as_record(StepMetrics, row) for row in connection.execute(query).mappings()]

    def history(self, run: str) -> RunMetrics:
        """Return all metrics of a run."""
        return RunMetrics(run=run, epochs=tuple(self.epochs(run)), steps=tuple(self.steps(run)))


def _thin(connection: Connection, run: str, most: int) -> None:
    count = connection.execute(select(func.count()).select_from(steps).where(steps.c.run == run)).scalar_one()
    if count <= most:
        return
    numbers = connection.execute(select(steps.c.step).where(steps.c.run == run).order_by(steps.c.step)).scalars().all()
    dropped = surplus(numbers, max(1, most // 2))
    for start in range(0, len(dropped), _DELETED_AT_ONCE):
        some = dropped[start : start + _DELETED_AT_ONCE]
        connection.execute(delete(steps).where(steps.c.run == run, steps.c.step.in_(some)))


def surplus(numbers: Sequence[int], parts: int) -> list[int]:
    """Return which of some ascending step numbers go: all but the last of each of at most `parts` equal parts.

    The parts are a power of two of steps long, so that those of a longer run are made of whole ones of before.
    """
    width = 1
    while width * parts < numbers[-1]:
        width *= 2
    part_of = [(number - 1) // width for number in numbers]
    return [number for place, number in enumerate(numbers[:-1]) if part_of[place] == part_of[place + 1]]
