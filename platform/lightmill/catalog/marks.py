"""High-water marks: the highest number ever seen in each log of the store.

A store that shows less than its mark was rolled back. `stream` is "v" for the versions of an asset, "a/<alias>"
for the moves of an alias, "t/<seq>" for a tombstone and "k" for annotations. A mark is never lowered and its
digest never changes.
"""

from __future__ import annotations

from sqlalchemy import select

from lightmill.catalog.database import Database, insert_into
from lightmill.catalog.tables import marks
from lightmill.errors import IntegrityError


class Marks:
    """High-water marks by asset id and stream."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def raise_to(self, mid: str, stream: str, number: int, digest: str) -> None:
        """Raise a mark; a number below it changes nothing.

        Raises:
            IntegrityError: The mark is at this number with another digest: the store's history was rewritten.
        """
        with self._database.write() as connection:
            statement = insert_into(connection, marks).values(mid=mid, stream=stream, number=number, digest=digest)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["mid", "stream"],
                    set_={"number": statement.excluded.number, "digest": statement.excluded.digest},
                    where=statement.excluded.number > marks.c.number,
                )
            )
            found = connection.execute(
                select(marks.c.number, marks.c.digest).where(marks.c.mid == mid, marks.c.stream == stream)
            ).one()
        if found.number == number and found.digest != digest:
            raise IntegrityError(
                f"Number {number} of {stream!r} of asset {mid} has the digest {digest}, but the catalog has "
                f"seen {found.digest}: the store's history was rewritten. Restore the store that matches "
                "this catalog."
            )

    def get(self, mid: str, stream: str) -> tuple[int, str] | None:
        """Return the mark's number and digest, or None when nothing was seen yet."""
        query = select(marks.c.number, marks.c.digest).where(marks.c.mid == mid, marks.c.stream == stream)
        with self._database.read() as connection:
            found = connection.execute(query).one_or_none()
        return None if found is None else (found.number, found.digest)

    def below(self, mid: str, prefix: str) -> dict[str, tuple[int, str]]:
        """Return the marks of an asset whose stream begins with `prefix`, by stream."""
        query = select(marks.c.stream, marks.c.number, marks.c.digest).where(
            marks.c.mid == mid, marks.c.stream.startswith(prefix, autoescape=True)
        )
        with self._database.read() as connection:
            return {row.stream: (row.number, row.digest) for row in connection.execute(query)}

    def all(self) -> dict[tuple[str, str], tuple[int, str]]:
        """Return every mark by asset and stream."""
        with self._database.read() as connection:
            return {(row.mid, row.stream): (row.number, row.digest) for row in connection.execute(select(marks))}
