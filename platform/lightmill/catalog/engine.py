"""From a URL to an engine: what each database needs before Lightmill can use it.

SQLite: write-ahead log, so that readers and one writer do not wait for each other; a busy timeout; foreign
keys on; a file that only its owner reads. Python's own transaction handling is switched off, because only
BEGIN IMMEDIATE takes the write lock before the first read, and a transaction that reads first and writes
later fails without waiting when somebody else wrote in between (sqlite.org/isolation.html).
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from lightmill.errors import RequestError

LOCK_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 10
IMMEDIATE = "lightmill_immediate"
"""Execution option of a SQLite connection whose transactions write."""

_FORMS = "use sqlite:////absolute/path/catalog.db or postgresql://user:password@host:port/database"
_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


def parse_url(text: str) -> URL:
    """Return the URL with the driver that Lightmill uses and, for SQLite, an absolute path.

    Raises:
        RequestError: It is no URL, names another database, or a SQLite database in memory.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as exc:  # the text may hold a password: it is not repeated
        raise RequestError(f"The catalog URL cannot be read; {_FORMS}.") from exc
    if url.drivername not in _DRIVERS:
        raise RequestError(f"No catalog can be kept in {url.drivername!r}; {_FORMS}.")
    url = url.set(drivername=_DRIVERS[url.drivername])
    if url.drivername != "sqlite":
        return url
    if not url.database or url.database == ":memory:" or url.host:
        raise RequestError(f"The catalog needs a file that several processes can open; {_FORMS}.")
    if "uri" in url.query:
        return url
    return url.set(database=str(Path(url.database).absolute()))


def shown_url(url: URL) -> str:
    """Return the URL for messages: no password, and no query, which may hold one."""
    return url.set(drivername=url.get_backend_name(), query={}).render_as_string(hide_password=True)


def build_engine(url: URL) -> Engine:
    """Return an engine that has not connected yet.

    Raises:
        RequestError: The driver of the database is not installed, or the URL has an option of a wrong type.
    """
    build = _sqlite_engine if url.drivername == "sqlite" else _postgres_engine
    try:
        return build(url)
    except ImportError as exc:
        raise RequestError(f"The catalog {shown_url(url)} needs psycopg; install lightmill[postgres].") from exc
    except (ArgumentError, ValueError) as exc:
        raise RequestError(f"The catalog URL {shown_url(url)} has a wrong option; {_FORMS}.") from exc


def _postgres_engine(url: URL) -> Engine:
    defaults = {
        "connect_timeout": str(CONNECT_TIMEOUT_S),
        "application_name": "lightmill",
        "options": f"-c lock_timeout={LOCK_TIMEOUT_S}s",
    }
    given = {name: value for name, value in defaults.items() if name not in url.query}
    return create_engine(url, connect_args=given, pool_pre_ping=True, hide_parameters=True)


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        connect_args={"timeout": LOCK_TIMEOUT_S, "isolation_level": None},
        hide_parameters=True,
    )
    if url.database and "uri" not in url.query:
        path = Path(url.database)
        event.listen(engine, "do_connect", lambda *_: _make_private(path))
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _make_private(path: Path) -> None:
    """Make the file, if missing, readable by its owner only; SQLite gives its log files the same mode."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
    _use_write_ahead_log(connection)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch once per file. SQLite does not wait for a lock here, so several first openers must try again."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
            return  # a file system without shared memory keeps its rollback journal, which is slower but safe
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get(IMMEDIATE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
