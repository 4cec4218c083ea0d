"""The base of every record that crosses a process or a disk: frozen, and strict about unknown keys."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen record; an unknown key is an error, so that a typing mistake never passes silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def now_iso() -> str:
    """Return the present time in UTC as ISO 8601 with milliseconds, the form all records use."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
