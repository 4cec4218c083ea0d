"""What is said of versions, as the sum of their annotations: applied in the order of the log, each once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from lightmill.catalog.database import Database, as_record, insert_into
from lightmill.catalog.tables import assets, marks, version_tags, versions
from lightmill.errors import NotFoundError
from lightmill.records.annotations import Change, Notes, TagsChanged
from lightmill.records.references import AssetKind

STREAM = "k"
"""The stream of marks that says up to where an asset's annotations were applied."""

_NOTES = (versions.c.stage, versions.c.tags, versions.c.text, versions.c.evaluations)


class VersionNotes:
    """Notes by version."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, kind: AssetKind, name: str, seq: int) -> Notes:
        """Return what is said of a version.

        Raises:
            NotFoundError: The catalog lists no such version.
        """
        query = (
            select(*_NOTES)
            .join_from(versions, assets)
            .where(assets.c.kind == AssetKind(kind).value, assets.c.name == name, versions.c.seq == seq)
        )
        with self._database.read() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            raise NotFoundError(f"The catalog lists no version {seq} of {AssetKind(kind).value} {name!r}.")
        return _notes(row)

    def apply(self, mid: str, seq: int, n: int, digest: str, change: Change | None) -> bool:
        """Apply entry `n` of an asset's annotations and raise its mark, both or neither.

        Args:
            mid: The asset.
            seq: The version that the entry is about.
            n: The entry's number; entry n - 1 must have been applied.
            digest: The entry's digest.
            change: What it says; None when the version was deleted, so that nothing is kept of it.

        Returns:
            Whether it was applied now; False when it was before, or another process does it.

        Raises:
            NotFoundError: The catalog does not list the version.
        """
        with self._database.write() as connection:
            if not _next(connection, mid, n, digest):
                return False
            if change is not None:
                _apply(connection, mid, seq, change)
        return True


def _next(connection: Connection, mid: str, n: int, digest: str) -> bool:
    """Raise the mark from n - 1 to n; whoever does it holds the row until the transaction ends."""
    if n == 1:
        first = insert_into(connection, marks).values(mid=mid, stream=STREAM, number=1, digest=digest)
        statement = first.on_conflict_do_nothing().returning(marks.c.number)
    else:
        here = (marks.c.mid == mid, marks.c.stream == STREAM, marks.c.number == n - 1)
        statement = update(marks).where(*here).values(number=n, digest=digest).returning(marks.c.number)
    return connection.execute(statement).first() is not None


def _apply(connection: Connection, mid: str, seq: int, change: Change) -> None:
    here = (versions.c.mid == mid, versions.c.seq == seq)
    query = select(*_NOTES, versions.c.deleted).where(*here).with_for_update()
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFoundError(f"The catalog does not list version {seq} of asset {mid} yet.")
    if row["deleted"] is not None:
        return
    notes = _notes({key: row[key] for key in row if key != "deleted"}).after(change)
    connection.execute(update(versions).where(*here).values(notes.model_dump(mode="json")))
    if isinstance(change, TagsChanged):
        connection.execute(delete(version_tags).where(version_tags.c.mid == mid, version_tags.c.seq == seq))
        rows = [{"mid": mid, "seq": seq, "key": key, "value": value} for key, value in notes.tags.items()]
        if rows:
            connection.execute(insert(version_tags), rows)


def _notes(row: RowMapping | dict[str, Any]) -> Notes:
    return as_record(Notes, row)
