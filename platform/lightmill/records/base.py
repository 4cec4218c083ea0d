"""The base of every record that crosses a process or a disk: frozen, and strict about unknown keys."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen record; an unknown key is an error, so that a typing mistake never passes silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def now_iso() -> str:
    """Return the present time in UTC as ISO 8601 with milliseconds, the form all records use."""
    return _iso(datetime.now(UTC))


def iso_of(seconds: float) -> str:
    """Return a time in seconds since 1970 in the form of `now_iso`."""
    return _iso(datetime.fromtimestamp(seconds, UTC))


def seconds_of(text: str) -> float:
    """Return an ISO 8601 time as seconds since 1970; one without an offset is in UTC.

    Raises:
        ValueError: It is no such time.
    """
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
