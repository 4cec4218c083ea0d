"""What is found out about dataset versions: how two differ, and where a row comes from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from lightmill.records.assets import SourceFile
from lightmill.records.base import Record
from lightmill.records.references import VersionId


class FieldChange(Record):
    """A field that differs, as text; None where there is none. `what` is a column or a part of a specification."""

    what: str
    field: str
    old: str | None = None
    new: str | None = None


class CountChange(Record):
    """A number of rows that differs; `group` is `rows`, `split`, `class`, `dropped`, `quarantined` or `clipped`."""

    group: str
    name: str
    old: int
    new: int

    @property
    def share(self) -> float:
        """Return the difference as a share of the larger number."""
        return abs(self.new - self.old) / max(self.new, self.old, 1)


class ColumnShift(Record):
    """How the values of one column differ between two versions.

    `old_missing` and `new_missing` are shares of rows from 0 to 1. `mean_shift` is the difference of the means in
    standard deviations of the old version. `psi` is the population stability index and `js` the Jensen-Shannon
    distance (0 to 1) over `bins` common bins; `by_chance` is the index that two samples of these sizes of one
    distribution have on average. `method` says what was compared.
    """

    name: str
    kind: Literal["numbers", "categories", "lengths", "counts"]
    old_missing: float
    new_missing: float
    old_mean: float | None = None
    new_mean: float | None = None
    mean_shift: float | None = None
    psi: float | None = None
    js: float | None = None
    bins: int = 0
    by_chance: float | None = None
    method: str

    @property
    def size(self) -> float:
        """Return what columns are ordered by: the larger of the distance and the change of the missing share."""
        return max(self.js or 0.0, abs(self.new_missing - self.old_missing))


class SourceChange(Record):
    """A source file that came, went, or has other bytes."""

    name: str
    change: Literal["added", "removed", "changed"]
    old: SourceFile | None = None
    new: SourceFile | None = None


class DatasetDiff(Record):
    """How version `new` of a dataset differs from `old`, by their manifests and profiles.

    `columns` are declarations, `shifts` distributions with the largest first, `preparation` everything else that was
    specified, fitted or used. `notes` say what could not be compared.
    """

    old: VersionId
    new: VersionId
    columns: tuple[FieldChange, ...] = ()
    counts: tuple[CountChange, ...] = ()
    shifts: tuple[ColumnShift, ...] = ()
    sources: tuple[SourceChange, ...] = ()
    preparation: tuple[FieldChange, ...] = ()
    notes: tuple[str, ...] = ()


class RowTrace(Record):
    """One row of a dataset version and the place that it was read from.

    Attributes:
        version: Which version.
        row_id: The row's id; it stays through preparation.
        group: The split that holds the row, or `quarantine`.
        position: The row's place within the group, from 0.
        source: The file it was read from, where the version's record says.
        place: What to look for in the file, such as a key range of a table; empty where the file says it all.
        source_row: The row's number there, from 1.
        reason: Why it was kept aside.
        note: What could not be told.
        values: The stored values, masked as they are stored.
    """

    version: VersionId
    row_id: int
    group: str
    position: int = Field(ge=0)
    source: SourceFile | None = None
    place: str = ""
    source_row: int | None = None
    reason: str = ""
    note: str = ""
    values: dict[str, JsonValue] = Field(default_factory=dict)
