"""Bringing a catalog to the newest revision with Alembic, without an ini file.

Several processes may do so at once: one transaction holds the write lock (SQLite) or an advisory lock
(PostgreSQL) from reading the revision to committing the tables. Both databases roll DDL back.
"""

from __future__ import annotations

import threading

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from lightmill.catalog.database import Database, read_revision
from lightmill.catalog.tables import HEAD

SCRIPTS = "lightmill.catalog:migrations"
_ADVISORY_LOCK = 7_811_613_109  # any number that nobody else uses in this database
_alembic_is_global = threading.Lock()


def migrate(database: Database) -> None:
    """Bring the database to `HEAD`; does nothing when it is there.

    Raises:
        UnavailableError: The database does not answer, cannot be written, or is of a newer Lightmill.
    """
    found = database.revision()
    database.refuse_newer(found)
    if found == HEAD:
        return
    with _alembic_is_global, database.migration() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        found = read_revision(connection)
        database.refuse_newer(found)
        if found != HEAD:
            _upgrade(connection)


def scripts() -> Config:
    """Return Alembic's configuration: where the migrations of this package are."""
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    config.set_main_option("path_separator", "os")
    return config


def _upgrade(connection: Connection) -> None:
    config = scripts()
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)
