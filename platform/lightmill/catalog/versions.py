"""The index of versions and aliases. The store is authoritative; this is what people search and compare."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Text,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from lightmill.catalog.database import Database, as_record, insert_into, names_that_exist
from lightmill.catalog.tables import aliases, assets, version_metrics, version_tags, versions
from lightmill.errors import ConflictError, IntegrityError, NotFoundError
from lightmill.records.assets import AssetSummary, VersionSummary
from lightmill.records.references import AssetKind, VersionId

SUMMARY = (
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
    versions.c.stage,
    versions.c.tags,
    versions.c.deleted,
)
NAMED_MAX = 40
_LIVE = versions.c.deleted.is_(None)
_any_version = versions.alias("any_version")
_SOME_LIVE = exists().where(_any_version.c.mid == assets.c.mid, _any_version.c.deleted.is_(None)).correlate(assets)


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
            _record_version(connection, summary)

    def record_deleted(self, stub: VersionSummary, workspace: str) -> None:
        """List a version as deleted; what was known of it, notes included, is forgotten.

        Raises:
            ConflictError: The name is listed already for another workspace or store.
            IntegrityError: Another digest is listed under this number: the store's history was rewritten.
        """
        here = and_(versions.c.mid == stub.mid, versions.c.seq == stub.id.seq)
        with self._database.write() as connection:
            _record_asset(connection, stub, workspace)
            _record_version(connection, stub)
            connection.execute(update(versions).where(here).values(_version_row(stub)))
            for table in (version_metrics, version_tags):
                connection.execute(delete(table).where(table.c.mid == stub.mid, table.c.seq == stub.id.seq))

    def get(self, kind: AssetKind, name: str, seq: int) -> VersionSummary:
        """Return one version.

        Raises:
            NotFoundError: There is no such asset or version; the message names those that exist.
        """
        asset = and_(assets.c.kind == AssetKind(kind).value, assets.c.name == name)
        found = self._summaries(and_(asset, versions.c.seq == seq))
        if found:
            return found[0]
        known = self.list(kind, name, deleted=True)
        if not known:
            self.asset(kind, name)
        raise NotFoundError(
            f"No version {seq} of {AssetKind(kind).value} {name!r}; it has {_spans(s.id.seq for s in known)}."
        )

    def find(self, version: VersionId) -> VersionSummary | None:
        """Return a version by its digest, deleted or not, or None when it is not listed."""
        found = self._summaries(
            and_(
                assets.c.kind == version.kind.value,
                assets.c.name == version.name,
                versions.c.seq == version.seq,
                versions.c.digest == version.digest,
            )
        )
        return found[0] if found else None

    def list(self, kind: AssetKind, name: str, *, deleted: bool = False) -> builtins.list[VersionSummary]:
        """Return the versions of one asset, newest first; none when there is no such asset."""
        asset = and_(assets.c.kind == AssetKind(kind).value, assets.c.name == name)
        return self._summaries(asset if deleted else and_(asset, _LIVE), versions.c.seq.desc())

    def known(self) -> dict[str, dict[int, bool]]:
        """Return for every asset's opaque id what `recorded` returns, from one query."""
        found: dict[str, dict[int, bool]] = {}
        with self._database.read() as connection:
            for row in connection.execute(select(versions.c.mid, versions.c.seq, _LIVE.label("live"))):
                found.setdefault(row.mid, {})[row.seq] = not row.live
        return found

    def recorded(self, mid: str) -> dict[int, bool]:
        """Return the version numbers that are listed for an asset's opaque id, and whether each is deleted."""
        query = select(versions.c.seq, _LIVE.label("live")).where(versions.c.mid == mid)
        with self._database.read() as connection:
            return {row.seq: not row.live for row in connection.execute(query)}

    def named(self, mid: str) -> tuple[AssetKind, str] | None:
        """Return kind and name of an asset's opaque id, or None if it is not listed."""
        with self._database.read() as connection:
            row = connection.execute(select(assets.c.kind, assets.c.name).where(assets.c.mid == mid)).first()
        return None if row is None else (AssetKind(row.kind), row.name)

    def derived_from(self, version: VersionId) -> builtins.list[VersionSummary]:
        """Return the versions made from this dataset or model version, by name and then newest first."""
        made = or_(versions.c.dataset_digest == version.digest, versions.c.base_digest == version.digest)
        return self._summaries(made, assets.c.kind, assets.c.name, versions.c.seq.desc())

    def evaluated_on(self, version: VersionId) -> builtins.list[VersionSummary]:
        """Return the versions that were evaluated on this dataset version, by name and then newest first."""
        names = cast(versions.c.evaluations, Text).contains(version.digest)
        return self._summaries(and_(_LIVE, names), assets.c.kind, assets.c.name, versions.c.seq.desc())

    def assets(
        self, kind: AssetKind, *, deleted: bool = False, after: str = "", limit: int | None = None
    ) -> builtins.list[AssetSummary]:
        """Return the assets of a kind with their aliases, sorted by name.

        Args:
            kind: Which.
            deleted: Whether also those of which every version is deleted.
            after: The name after which the page begins.
            limit: How many at most; None for all.
        """
        shown = [assets.c.kind == AssetKind(kind).value]
        if after:
            shown.append(assets.c.name > after)
        if not deleted:
            shown.append(_SOME_LIVE)
        page = select(assets.c.mid).where(*shown).order_by(assets.c.name).limit(limit)
        with self._database.read() as connection:
            mids = connection.execute(page).scalars().all() if limit is not None else None
        return self._assets(and_(*shown) if mids is None else assets.c.mid.in_(mids))

    def count(self, kind: AssetKind) -> int:
        """Return how many assets of a kind have a version that is not deleted."""
        query = select(func.count()).select_from(assets).where(assets.c.kind == AssetKind(kind).value, _SOME_LIVE)
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()

    def aliased(self, kind: AssetKind, name: str, alias: str) -> VersionSummary:
        """Return the version that an alias points at by the catalog, which may lag behind the store.

        Raises:
            NotFoundError: The catalog lists no such alias, or not its version.
        """
        points = and_(aliases.c.kind == assets.c.kind, aliases.c.name == assets.c.name, aliases.c.seq == versions.c.seq)
        query = (
            select(*SUMMARY)
            .join_from(versions, assets)
            .join(aliases, points)
            .where(aliases.c.kind == AssetKind(kind).value, aliases.c.name == name, aliases.c.alias == alias)
        )
        with self._database.read() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            raise NotFoundError(f"The catalog lists no alias {alias!r} of {AssetKind(kind).value} {name!r}.")
        return summary_of(row)

    def asset(self, kind: AssetKind, name: str) -> AssetSummary:
        """Return one asset with its aliases.

        Raises:
            NotFoundError: There is no such asset; the message names those that exist.
        """
        found = self._assets(and_(assets.c.kind == AssetKind(kind).value, assets.c.name == name))
        if found:
            return found[0]
        names = names_that_exist([summary.name for summary in self.assets(kind, limit=NAMED_MAX)])
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
        query = select(*SUMMARY).join_from(versions, assets).where(where).order_by(*order)
        with self._database.read() as connection:
            return [summary_of(row) for row in connection.execute(query).mappings()]

    def _assets(self, where: ColumnElement[bool]) -> builtins.list[AssetSummary]:
        live = case((_LIVE, versions.c.seq))
        query = (
            select(
                assets.c.kind,
                assets.c.name,
                assets.c.mid,
                func.count(live).label("versions"),
                func.coalesce(func.max(live), 0).label("latest"),
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


def _record_version(connection: Connection, summary: VersionSummary) -> None:
    statement = insert_into(connection, versions).values(_version_row(summary)).on_conflict_do_nothing()
    added = connection.execute(statement.returning(versions.c.seq)).first()
    here = {"mid": summary.mid, "seq": summary.id.seq}
    if added and summary.metrics:
        rows = [{**here, "name": name, "value": value} for name, value in summary.metrics.items()]
        connection.execute(insert(version_metrics), rows)
    if added and summary.tags:
        connection.execute(
            insert(version_tags), [{**here, "key": key, "value": text} for key, text in summary.tags.items()]
        )
    found = connection.execute(
        select(versions.c.digest).where(versions.c.mid == summary.mid, versions.c.seq == summary.id.seq)
    ).scalar_one()
    if found != summary.id.digest:
        raise IntegrityError(
            f"The {summary.id.kind.value} {summary.id} has the digest {summary.id.digest}, but the "
            f"catalog listed {found} before: the store's history was rewritten, or the catalog belongs "
            "to another store. Restore the store that matches this catalog."
        )


def _version_row(summary: VersionSummary) -> dict[str, Any]:
    dataset, base = summary.provenance.dataset, summary.provenance.base
    return {
        **summary.model_dump(mode="json", exclude={"id"}),
        "seq": summary.id.seq,
        "digest": summary.id.digest,
        "dataset_digest": dataset.digest if dataset else None,
        "base_digest": base.digest if base else None,
        "kind": summary.id.kind.value,
        "text": {},
        "evaluations": [],
    }


def summary_of(row: RowMapping | dict[str, Any]) -> VersionSummary:
    """Return the version that a row of the columns `SUMMARY` holds."""
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
