"""Metrics by epoch, as the terminal and the notebook plot them."""

from __future__ import annotations

from sqlalchemy import select

from lightmill.catalog.database import Database, as_record, insert_into
from lightmill.catalog.tables import epochs
from lightmill.records.jobs import EpochMetrics


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
