"""How far the candidates of endpoints have come, and what people asked to be done with them.

The control loop writes the state, people write what they ask; neither touches the other's column.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select

from lightmill.catalog.database import Database, as_record, insert_into
from lightmill.catalog.tables import traffic
from lightmill.records.rollouts import TrafficAsked, TrafficState


class Traffic:
    """States and wishes by endpoint."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, endpoint: str) -> TrafficState | None:
        """Return how far an endpoint's candidates have come; None if it has none."""
        return self.all().get(endpoint, (None, None))[0]

    def all(self) -> dict[str, tuple[TrafficState | None, TrafficAsked | None]]:
        """Return what there is of every endpoint: the state, and what is asked for and not done yet."""
        with self._database.read() as connection:
            rows = connection.execute(select(traffic)).mappings().all()
        return {
            row["endpoint"]: (
                as_record(TrafficState, row["state"]) if row["state"] else None,
                as_record(TrafficAsked, row["asked"]) if row["asked"] else None,
            )
            for row in rows
        }

    def put(self, endpoint: str, state: TrafficState) -> None:
        """Write how far an endpoint's candidates have come."""
        self._set(endpoint, state=state.model_dump(mode="json"))

    def ask(self, endpoint: str, asked: TrafficAsked | None) -> None:
        """Write what is to be done next, in place of what was asked before; None when it is done."""
        self._set(endpoint, asked=asked.model_dump(mode="json") if asked else None)

    def forget(self, endpoint: str) -> None:
        """Remove everything of an endpoint."""
        with self._database.write() as connection:
            connection.execute(delete(traffic).where(traffic.c.endpoint == endpoint))

    def _set(self, endpoint: str, **columns: Any) -> None:
        values = {**columns, "updated": self._database.now()}
        with self._database.write() as connection:
            statement = insert_into(connection, traffic).values(endpoint=endpoint, **values)
            connection.execute(statement.on_conflict_do_update(index_elements=["endpoint"], set_=values))
