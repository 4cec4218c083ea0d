"""Where SQLAlchemy's exceptions become Lightmill's, once."""

from __future__ import annotations

from sqlalchemy import exc as sa
from sqlalchemy.engine import URL

from lightmill.catalog.engine import LOCK_TIMEOUT_S, shown_url
from lightmill.errors import ConflictError, IntegrityError, LightmillError, RequestError, UnavailableError

# A part of the driver's message and what to do about it; the first that is found counts.
_REMEDIES = (
    ("password authentication failed", "correct the user or the password in LIGHTMILL_CATALOG"),
    ("no password supplied", "put the password into LIGHTMILL_CATALOG"),
    ("readonly database", "give this user the right to write the file and its folder"),
    ("read-only transaction", "name the primary server in LIGHTMILL_CATALOG, not a standby"),
    ("unable to open database", "check that the folder exists and that this user may read and write it"),
    ("Permission denied", "give this user the right to read and write there"),
    ("permission denied", "grant the rights to this database user"),
    ("locked", f"another process kept the write lock for over {LOCK_TIMEOUT_S} s; try again"),
    ("lock timeout", f"another process kept the write lock for over {LOCK_TIMEOUT_S} s; try again"),
    ("disk is full", "free some space on that file system"),
    ("No space left", "free some space on that file system"),
    ("does not exist", "create it (createdb) or correct LIGHTMILL_CATALOG"),
    ("connection", "start the server or correct the host and port in LIGHTMILL_CATALOG, then try again"),
)
_AWAY = (sa.OperationalError, sa.InterfaceError, sa.InternalError, sa.TimeoutError, OSError)
_INSUFFICIENT_PRIVILEGE = "42501"  # PostgreSQL's SQLSTATE, which its driver counts as a programming error


def translated(exc: Exception, url: URL) -> LightmillError | None:
    """Return the Lightmill error for an exception of the database, or None when it is a bug of ours."""
    shown, detail = shown_url(url), _detail(exc, url)
    if isinstance(exc, sa.IntegrityError):
        return ConflictError(f"The catalog {shown} holds a row with this key already: {detail}.")
    if isinstance(exc, _AWAY) or _sqlstate(exc) == _INSUFFICIENT_PRIVILEGE:
        remedy = next((remedy for part, remedy in _REMEDIES if part in detail), "try again")
        return UnavailableError(f"The catalog {shown} cannot be used now: {detail}. To do: {remedy}.")
    unfit = type(exc) is sa.StatementError and isinstance(exc.orig, (ValueError, TypeError))
    if unfit or isinstance(exc, sa.DataError):
        return RequestError(f"The catalog {shown} cannot keep this value: {detail}.")
    if type(exc) is sa.DatabaseError:  # SQLite: damaged, or no database at all
        return IntegrityError(
            f"The catalog {shown} is damaged: {detail}. Restore a backup, or move the file away and let the "
            "platform rebuild its index from the store."
        )
    return None


def _sqlstate(exc: Exception) -> str | None:
    return getattr(getattr(exc, "orig", None), "sqlstate", None)


def _detail(exc: Exception, url: URL) -> str:
    """Return the first line of the driver's message, without the password."""
    text = str(getattr(exc, "orig", None) or exc).strip() or type(exc).__name__
    line = text.splitlines()[0].rstrip(".")
    return line.replace(str(url.password), "***") if url.password else line
