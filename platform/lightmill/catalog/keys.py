"""API keys as they are kept: never the key itself, only its id and the digest of its secret."""

from __future__ import annotations

import builtins
from collections.abc import Mapping

from sqlalchemy import func, or_, select, update

from lightmill.catalog.database import Database, as_record, insert_into
from lightmill.catalog.tables import api_keys
from lightmill.errors import ConflictError, NotFoundError
from lightmill.records.endpoints import ApiKey


class Keys:
    """API keys by id."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, key: ApiKey) -> None:
        """Keep a new key, with `created` filled in when it is empty.

        Raises:
            ConflictError: There is a key with this id.
        """
        row = {**key.model_dump(mode="json"), "created": key.created or self._database.now()}
        with self._database.write() as connection:
            statement = insert_into(connection, api_keys).values(row).on_conflict_do_nothing()
            added = connection.execute(statement.returning(api_keys.c.id)).first()
        if added is None:
            raise ConflictError(f"There is an API key with the id {key.id!r} already; mint another one.")

    def list(self) -> builtins.list[ApiKey]:
        """Return all keys, also the revoked ones, oldest first."""
        query = select(api_keys).order_by(api_keys.c.created, api_keys.c.id)
        with self._database.read() as connection:
            return [as_record(ApiKey, row) for row in connection.execute(query).mappings()]

    def by_id(self, id: str) -> ApiKey | None:
        """Return one key, revoked or not; None when there is none with this id."""
        with self._database.read() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.id == id)).mappings().first()
        return None if row is None else as_record(ApiKey, row)

    def replace_secret(self, before: ApiKey, after: ApiKey) -> None:
        """Write a rotated key in place of what was read before it.

        Raises:
            ConflictError: Somebody else rotated or revoked it meanwhile.
        """
        table = api_keys
        statement = (
            update(table)
            .where(table.c.id == before.id, table.c.secret_sha256 == before.secret_sha256, table.c.revoked.is_(None))
            .values(secret_sha256=after.secret_sha256, old_sha256=after.old_sha256, old_until=after.old_until)
            .returning(table.c.id)
        )
        with self._database.write() as connection:
            found = connection.execute(statement).first()
        if found is None:
            raise ConflictError(f"The API key {before.id!r} was rotated or revoked by somebody else; look again.")

    def used(self, seen: Mapping[str, str]) -> None:
        """Write down when keys were last used, by their ids; earlier times than those written change nothing."""
        table = api_keys
        with self._database.write() as connection:
            for id, at in sorted(seen.items()):
                newer = or_(table.c.last_used.is_(None), table.c.last_used < at)
                connection.execute(update(table).where(table.c.id == id, newer).values(last_used=at))

    def revoke(self, id: str, at: str) -> None:
        """Revoke a key from `at` on; a key that is revoked already keeps its first time.

        Raises:
            NotFoundError: There is no key with this id.
        """
        statement = (
            update(api_keys)
            .where(api_keys.c.id == id)
            .values(revoked=func.coalesce(api_keys.c.revoked, at))
            .returning(api_keys.c.id)
        )
        with self._database.write() as connection:
            found = connection.execute(statement).first()
        if found is None:
            known = ", ".join(key.id for key in self.list()[:20]) or "none"
            raise NotFoundError(f"No API key with the id {id!r}; the ids are: {known}.")
