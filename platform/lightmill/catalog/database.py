"""Connections and transactions: the one way in which the rest of this room reaches the database.

A read sees one snapshot. A write takes the lock first (SQLite) or per row (PostgreSQL), so that what it
compares is what it sets. Both raise ConflictError, RequestError, UnavailableError or IntegrityError and never
an exception of SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection, RowMapping, Table, inspect, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from lightmill.catalog.engine import IMMEDIATE, build_engine, parse_url, shown_url
from lightmill.catalog.tables import HEAD, REVISION_TABLE, revisions
from lightmill.catalog.translation import translated
from lightmill.errors import IntegrityError, UnavailableError
from lightmill.records.base import Record, now_iso

RecordT = TypeVar("RecordT", bound=Record)


class Database:
    """One database; connects when it is first used, and may be shared by threads.

    Args:
        url: See `Catalog.open`.
        clock: Returns the present time as records write it.
    """

    def __init__(self, url: str, clock: Callable[[], str] = now_iso) -> None:
        self._url = parse_url(url)
        self._engine = build_engine(self._url)
        self._writer = self._engine.execution_options(**{IMMEDIATE: True})
        self._reader = self._engine
        if self._engine.dialect.name == "postgresql":
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._checked = False
        self.now = clock

    @property
    def shown(self) -> str:
        """The URL for messages, without the password."""
        return shown_url(self._url)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that only reads; all its queries see the same moment."""
        self._check_revision()
        with self._translating(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that writes; it is rolled back when the body raises."""
        self._check_revision()
        with self._translating(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        """Open a transaction that writes, on a database of whatever revision."""
        with self._translating(), self._writer.begin() as connection:
            yield connection

    def revision(self) -> str | None:
        """Return the revision that the database is at; None when it has no tables of ours."""
        with self._translating(), self._reader.begin() as connection:
            return read_revision(connection)

    def refuse_newer(self, found: str | None) -> None:
        """Refuse a database that a newer Lightmill has migrated.

        Raises:
            UnavailableError: `found` is no revision up to ours.
        """
        if found is not None and (not found.isdigit() or int(found) > int(HEAD)):
            raise UnavailableError(
                f"The catalog {self.shown} is at revision {found}, made by a newer Lightmill; this one knows "
                f"revisions up to {HEAD}. Upgrade Lightmill, or restore the backup from before the upgrade."
            )

    def dispose(self) -> None:
        """Close the connections that no transaction holds."""
        self._engine.dispose()

    def _check_revision(self) -> None:
        """Compare revisions once, so that two versions of Lightmill never write the same tables."""
        if self._checked:
            return
        found = self.revision()
        self.refuse_newer(found)
        if found != HEAD:
            state = "has no tables yet" if found is None else f"is at the older revision {found}"
            raise UnavailableError(f"The catalog {self.shown} {state}; `lightmill up` migrates it to {HEAD}.")
        self._checked = True

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as exc:
            error = translated(exc, self._url)
            if error is None:
                raise
            raise error from exc


def read_revision(connection: Connection) -> str | None:
    """Return the revision recorded in this database, or None."""
    if not inspect(connection).has_table(REVISION_TABLE):
        return None
    return connection.execute(select(revisions.c.version_num)).scalar()


def insert_into(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that knows ON CONFLICT, which both databases write alike."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def as_record(kind: type[RecordT], row: RowMapping | Mapping[str, Any]) -> RecordT:
    """Return the record that a row holds.

    Raises:
        IntegrityError: The row was not written by this version of Lightmill.
    """
    try:
        return kind.model_validate(dict(row))
    except ValidationError as exc:
        problem = exc.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise IntegrityError(
            f"A row of the catalog is no valid {kind.__name__}: {key}: {problem['msg']}. Restore a backup of "
            "the catalog."
        ) from exc


def names_that_exist(names: list[str], most: int = 20) -> str:
    """Return the end of a message: what there is instead of what was asked for."""
    if not names:
        return "there are none yet"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "there are " + ", ".join(sorted(names)[:most]) + more
