"""Small facts about this deployment that are written once, such as the id of its store."""

from __future__ import annotations

from sqlalchemy import select

from lightmill.catalog.database import Database, insert_into
from lightmill.catalog.tables import facts


class Facts:
    """Texts by key; the first value stays."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> str | None:
        """Return a fact, or None when it was not set."""
        with self._database.read() as connection:
            return connection.execute(select(facts.c.value).where(facts.c.key == key)).scalar_one_or_none()

    def set_once(self, key: str, value: str) -> str:
        """Set a fact unless it is set; return the value that won, which every caller then shares."""
        with self._database.write() as connection:
            statement = insert_into(connection, facts).values(key=key, value=value)
            connection.execute(statement.on_conflict_do_nothing())
            return connection.execute(select(facts.c.value).where(facts.c.key == key)).scalar_one()
