"""The index of versions and aliases. The store is authoritative; this is what people search and compare."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, func, select

from lightmill.catalog.database import Database, as_record, insert_into, names_that_exist
from lightmill.catalog.tables import aliases, assets, versions
from lightmill.errors import ConflictError, IntegrityError, NotFoundError
from lightmill.records.assets import AssetSummary, VersionSummary
from lightmill.records.references import AssetKind, VersionId

_SUMMARY = (
    assets.c.kind,
    assets.c.name,
    versions.c.mid,
    versions.c.seq,
    versions.c.digest,
    versions.c.created,
    versions.c.size_bytes,
    versions.c.metrics,
    versions.c.provenance,
    versions.c.card,
)


class Versions:
    """Versions of datasets, models and runs, with the aliases that point to them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, summary: VersionSummary, workspace: str) -> None:
        """List a version. Recording the same one again changes nothing.

        Raises:
            ConflictError: The name is listed already for another workspace or store.
            IntegrityError: Another digest is listed under this number: the store's history was rewritten.
        """
        with self._database.write() as connection:
            _record_asset(connection, summary, workspace)
            statement = insert_into(connection, versions).values(_version_row(summary))
            connection.execute(statement.on_conflict_do_nothing())
            found = connection.execute(
                select(versions.c.digest).where(versions.c.mid == summary.mid, versions.c.seq == summary.id.seq)
            ).scalar_one()
        if found != summary.id.digest:
            raise IntegrityError(
                f"The {summary.id.kind.value} {summary.id} has the digest {summary.id.digest}, but the "
                f"catalog listed {found} before: the store's history was rewritten, or the catalog belongs "
                "to another store. Restore the store that matches this catalog."
            )

    def get(self, kind: AssetKind, name: str, seq: int) -> VersionSummary:
        """Return one version.

        Raises:
            NotFoundError: There is no such asset or version; the message names those that exist.
        """
        known = self.list(kind, name)
        for summary in known:
            if summary.id.seq == seq:
                return summary
        if not known:
            self.asset(kind, name)
        raise NotFoundError(
            f"No version {seq} of {AssetKind(kind).value} {name!r}; it has {_spans(s.id.seq for s in known)}."
        )

    def list(self, kind: AssetKind, name: str) -> builtins.list[VersionSummary]:
        """Return the versions of one asset, newest first; none when there is no such asset."""
        return self._summaries(
            and_(assets.c.kind == AssetKind(kind).value, assets.c.name == name), versions.c.seq.desc()
        )

    def recorded(self, mid: str) -> set[int]:
        """Return the version numbers that are listed for an asset's opaque id."""
        with self._database.read() as connection:
            return set(connection.execute(select(versions.c.seq).where(versions.c.mid == mid)).scalars())

    def named(self, mid: str) -> tuple[AssetKind, str] | None:
        """Return kind and name of an asset's opaque id, or None if it is not listed."""
        with self._database.read() as connection:
            row = connection.execute(select(assets.c.kind, assets.c.name).where(assets.c.mid == mid)).first()
        return None if row is None else (AssetKind(row.kind), row.name)

    def derived_from(self, version: VersionId) -> builtins.list[VersionSummary]:
        """Return the versions that were made from this dataset version, by name and then newest first."""
        return self._summaries(
            versions.c.dataset_digest == version.digest, assets.c.kind, assets.c.name, versions.c.seq.desc()
        )

    def assets(self, kind: AssetKind) -> builtins.list[AssetSummary]:
        """Return the assets of a kind with their aliases, sorted by name."""
        return self._assets(assets.c.kind == AssetKind(kind).value)

    def asset(self, kind: AssetKind, name: str) -> AssetSummary:
        """Return one asset with its aliases.

        Raises:
            NotFoundError: There is no such asset; the message names those that exist.
        """
        found = self._assets(and_(assets.c.kind == AssetKind(kind).value, assets.c.name == name))
        if found:
            return found[0]
        names = names_that_exist([summary.name for summary in self.assets(kind)])
        raise NotFoundError(f"No {AssetKind(kind).value} named {name!r} in the catalog; {names}.")

    def set_alias(self, kind: AssetKind, name: str, alias: str, seq: int, n: int) -> None:
        """List the move `n` of an alias to version `seq`; the move with the highest `n` stays.

        Raises:
            IntegrityError: Move `n` is listed with another version: the store's history was rewritten.
        """
        key = {"kind": AssetKind(kind).value, "name": name, "alias": alias}
        with self._database.write() as connection:
            statement = insert_into(connection, aliases).values(**key, seq=seq, n=n)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=list(key),
                    set_={"seq": statement.excluded.seq, "n": statement.excluded.n},
                    where=statement.excluded.n > aliases.c.n,
                )
            )
            found = connection.execute(
                select(aliases.c.seq, aliases.c.n).where(*(aliases.c[part] == key[part] for part in key))
            ).one()
        if found.n == n and found.seq != seq:
            raise IntegrityError(
                f"Move {n} of alias {alias!r} of {key['kind']} {name!r} goes to version {seq}, but the "
                f"catalog listed version {found.seq} before: the store's history was rewritten. Restore the "
                "store that matches this catalog."
            )

    def _summaries(self, where: ColumnElement[bool], *order: ColumnElement[Any]) -> builtins.list[VersionSummary]:
        query = select(*_SUMMARY).join_from(versions, assets).where(where).order_by(*order)
        with self._database.read() as connection:
            return [_summary(row) for row in connection.execute(query).mappings()]

    def _assets(self, where: ColumnElement[bool]) -> builtins.list[AssetSummary]:
        query = (
            select(
                assets.c.kind,
                assets.c.name,
                assets.c.mid,
                func.count().label("versions"),
                func.max(versions.c.seq).label("latest"),
                func.min(versions.c.created).label("created"),
                func.max(versions.c.created).label("updated"),
            )
            .join_from(versions, assets)
            .where(where)
            .group_by(assets.c.kind, assets.c.name, assets.c.mid)
            .order_by(assets.c.name)
        )
        same_asset = and_(assets.c.kind == aliases.c.kind, assets.c.name == aliases.c.name)
        moves = select(aliases).join_from(aliases, assets, same_asset).where(where).order_by(aliases.c.alias)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
            named: dict[str, dict[str, int]] = {}
            for move in connection.execute(moves):
                named.setdefault(move.name, {})[move.alias] = move.seq
        return [as_record(AssetSummary, {**row, "aliases": named.get(row["name"], {})}) for row in rows]


def _record_asset(connection: Connection, summary: VersionSummary, workspace: str) -> None:
    kind, name = summary.id.kind.value, summary.id.name
    row = {"mid": summary.mid, "kind": kind, "name": name, "workspace": workspace}
    connection.execute(insert_into(connection, assets).values(row).on_conflict_do_nothing())
    found = connection.execute(
        select(assets.c.mid, assets.c.workspace).where(assets.c.kind == kind, assets.c.name == name)
    ).one_or_none()
    if found is None or found.mid != summary.mid:
        owner = f"workspace {found.workspace!r}" if found else "another asset"
        raise ConflictError(
            f"The catalog lists {kind} {name!r} or its id {summary.mid} for {owner} already, so it belongs "
            f"to another workspace or store than {workspace!r}. Give each its own (LIGHTMILL_CATALOG)."
        )


def _version_row(summary: VersionSummary) -> dict[str, Any]:
    dataset = summary.provenance.dataset
    return {
        **summary.model_dump(mode="json", exclude={"id"}),
        "seq": summary.id.seq,
        "digest": summary.id.digest,
        "dataset_digest": dataset.digest if dataset else None,
    }


def _summary(row: RowMapping) -> VersionSummary:
    values = dict(row)
    identity = {part: values.pop(part) for part in ("kind", "name", "seq", "digest")}
    return as_record(VersionSummary, {**values, "id": identity})


def _spans(numbers: Iterable[int]) -> str:
    """Return `1 to 3, 5` for 5, 3, 2, 1."""
    spans: builtins.list[builtins.list[int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in spans)
