"""Masking policies as they were signed, by name and number; a row is never changed and never removed."""

from __future__ import annotations

import builtins

from sqlalchemy import select

from lightmill.catalog.database import Database, insert_into
from lightmill.catalog.tables import masking_policies
from lightmill.errors import ConflictError


class MaskingPolicies:
    """Signed texts by name and number. Whoever reads one verifies it: see `registry.policies`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def now(self) -> str:
        """Return the present time, as the catalog writes it."""
        return self._database.now()

    def add(self, name: str, version: int, created: str, signed: str) -> None:
        """Keep a policy.

        Raises:
            ConflictError: There is one of this name and number.
        """
        row = {"name": name, "version": version, "created": created, "signed": signed}
        with self._database.write() as connection:
            statement = insert_into(connection, masking_policies).values(row).on_conflict_do_nothing()
            added = connection.execute(statement.returning(masking_policies.c.version)).first()
        if added is None:
            raise ConflictError(f"Somebody else has just added masking policy {name}@{version}; add yours again.")

    def list(self) -> builtins.list[tuple[str, int, str]]:
        """Return (name, number, signed text) of all policies, by name and number."""
        table = masking_policies
        query = select(table.c.name, table.c.version, table.c.signed).order_by(table.c.name, table.c.version)
        with self._database.read() as connection:
            return [(row.name, row.version, row.signed) for row in connection.execute(query)]

    def find(self, name: str, version: int | None = None) -> tuple[int, str] | None:
        """Return (number, signed text) of a policy, of the newest without a number; None if there is none."""
        table = masking_policies
        query = select(table.c.version, table.c.signed).where(table.c.name == name)
        if version is not None:
            query = query.where(table.c.version == version)
        with self._database.read() as connection:
            row = connection.execute(query.order_by(table.c.version.desc()).limit(1)).first()
        return None if row is None else (row.version, row.signed)
