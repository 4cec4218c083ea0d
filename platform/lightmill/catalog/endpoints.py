"""Endpoints: what should be, which people change, and what was last seen, which the reconcile loop writes.

Both sides write the same row at once, so neither undoes the other: `observe` never touches what should be,
a deleted endpoint stays DELETING whatever is seen, and `forget` removes no endpoint that was put again.
"""

from __future__ import annotations

import builtins
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, select, update

from lightmill.catalog.database import Database, as_record, insert_into, names_that_exist
from lightmill.catalog.tables import endpoints
from lightmill.errors import NotFoundError
from lightmill.records.endpoints import Endpoint, EndpointState
from lightmill.records.references import VersionId
from lightmill.records.specs import EndpointSpec


class Endpoints:
    """Endpoints by name. `Endpoint.url` is not kept here."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, spec: EndpointSpec) -> Endpoint:
        """Make or change what should be; a deleted endpoint comes back.

        The revision grows by one when the spec differs. The state becomes PENDING when anything changed, so
        that who waits for READY does not see the state of the former spec.
        """
        with self._database.write() as connection:
            fresh = Endpoint(name=spec.name, spec=spec, created=self._database.now())
            row = fresh.model_copy(update={"updated": fresh.created}).model_dump(mode="json", exclude={"url"})
            connection.execute(insert_into(connection, endpoints).values(row).on_conflict_do_nothing())
            found = self._locked(connection, spec.name)
            if found.spec == spec and not found.deleted:
                return found
            return self._change(
                connection,
                found,
                spec=spec.model_dump(mode="json"),
                revision=found.revision + (found.spec != spec),
                deleted=False,
                state=EndpointState.PENDING.value,
                message="",
            )

    def get(self, name: str) -> Endpoint:
        """Return one endpoint, deleted or not.

        Raises:
            NotFoundError: There is none; the message names those that exist.
        """
        with self._database.read() as connection:
            row = connection.execute(select(endpoints).where(endpoints.c.name == name)).mappings().first()
            return _endpoint(row) if row else self._none(connection, name)

    def list(self) -> builtins.list[Endpoint]:
        """Return all endpoints, also those being deleted, sorted by name."""
        with self._database.read() as connection:
            rows = connection.execute(select(endpoints).order_by(endpoints.c.name)).mappings()
            return [_endpoint(row) for row in rows]

    def delete(self, name: str) -> None:
        """Mark an endpoint as deleted; the reconcile loop removes it. Deleting it again changes nothing.

        Raises:
            NotFoundError: There is none; the message names those that exist.
        """
        with self._database.write() as connection:
            found = self._locked(connection, name)
            if not found.deleted:
                self._change(connection, found, deleted=True, state=EndpointState.DELETING.value, message="")

    def forget(self, name: str) -> None:
        """Remove the row of a deleted endpoint; one that was put again meanwhile stays."""
        with self._database.write() as connection:
            connection.execute(delete(endpoints).where(endpoints.c.name == name, endpoints.c.deleted.is_(True)))

    def observe(
        self,
        name: str,
        *,
        state: EndpointState,
        version: VersionId | None,
        replicas: int,
        message: str,
        revision: int | None = None,
    ) -> None:
        """Write what was seen, if it differs from what was seen before.

        Args:
            name: The endpoint.
            state: What it is doing; a deleted endpoint stays DELETING.
            version: The model version that answers.
            replicas: How many answer.
            message: Why, for people.
            revision: The revision that was looked at; what was seen of an older one is not written.

        Raises:
            NotFoundError: There is no such endpoint any more.
        """
        with self._database.write() as connection:
            found = self._locked(connection, name)
            if revision is not None and revision != found.revision:
                return
            state = EndpointState.DELETING if found.deleted else EndpointState(state)
            seen = (state, version, replicas, message)
            if seen == (found.state, found.version, found.replicas, found.message):
                return
            self._change(
                connection,
                found,
                state=state.value,
                version=version.model_dump(mode="json") if version else None,
                replicas=replicas,
                message=message,
            )

    def _locked(self, connection: Connection, name: str) -> Endpoint:
        """Return an endpoint that nobody else changes before this transaction ends."""
        query = select(endpoints).where(endpoints.c.name == name).with_for_update()
        row = connection.execute(query).mappings().first()
        return _endpoint(row) if row else self._none(connection, name)

    def _change(self, connection: Connection, found: Endpoint, **columns: Any) -> Endpoint:
        statement = update(endpoints).where(endpoints.c.name == found.name).returning(endpoints)
        changed = connection.execute(statement.values({**columns, "updated": self._database.now()}))
        return _endpoint(changed.mappings().one())

    def _none(self, connection: Connection, name: str) -> Endpoint:
        names = connection.execute(select(endpoints.c.name)).scalars().all()
        raise NotFoundError(f"No endpoint named {name!r}; {names_that_exist([*names])}.")


def _endpoint(row: RowMapping) -> Endpoint:
    return as_record(Endpoint, row)
