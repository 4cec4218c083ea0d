"""Searching versions: the narrowest condition leads, the rest is looked up row by row; pages go on by key.

Neither database can know beforehand how rare a tag is, so it is counted first, up to `NARROW_MAX` rows: a rare
condition is read whole from its index and then sorted; if none is rare, rows are read in the order of the page
until it is full. So the time of a page depends on the page and hardly on the number of versions. A planner without
statistics would choose otherwise, so a column is joined to "" where its index must not be used.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Select, Table, and_, exists, func, literal, select, tuple_

from lightmill.catalog.database import Database
from lightmill.catalog.tables import aliases, assets, version_metrics, version_tags, versions
from lightmill.catalog.versions import SUMMARY, summary_of
from lightmill.records.annotations import Stage
from lightmill.records.references import AssetKind
from lightmill.records.search import Comparison, Cursor, DatasetTerm, SearchOrder, SearchPage, SearchQuery, TagTerm

NARROW_MAX = 500
_COMPARE: dict[str, Callable[[Any, Any], ColumnElement[bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "!=": operator.ne,
}
_sorted_by = version_metrics.alias("sorted_by")
_version = versions.alias("candidate")
_asset = assets.alias("candidate_asset")
_dataset = versions.alias("dataset")
_dataset_asset = assets.alias("dataset_asset")


class Search:
    """Finds versions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def versions(
        self, kind: AssetKind, query: SearchQuery, order: SearchOrder, *, limit: int, after: Cursor | None = None
    ) -> SearchPage:
        """Return a page of the versions that fulfil a query; deleted ones never do.

        Args:
            kind: Datasets, models or runs.
            query: What must hold.
            order: How they are sorted; equal ones by asset and number, in the same direction.
            limit: How many at most.
            after: Where the page before ended.
        """
        kind, column = AssetKind(kind), _column(order)
        where = [versions.c.deleted.is_(None), *(_COMPARE[t.op](versions.c.created, t.value) for t in query.created)]
        if after is not None:
            key = tuple_(column, versions.c.mid, versions.c.seq)
            last = tuple_(*(literal(value) for value in (after.value, after.mid, after.seq)))
            where.append(key < last if order.descending else key > last)
        with self._database.read() as connection:
            conditions, led = _lead(connection, _conditions(kind, query))
            keys = select(column.label("value"), versions.c.mid, versions.c.seq).select_from(_source(query, order, led))
            page = (
                keys.where(*where, *conditions, *_of_kind(kind, order, led))
                .order_by(*_directed(order, column, versions.c.mid, versions.c.seq))
                .limit(limit + 1)
                .subquery("page")
            )
            here = and_(versions.c.mid == page.c.mid, versions.c.seq == page.c.seq)
            shown = select(*SUMMARY, page.c.value).select_from(page.join(versions, here).join(assets))
            rows = connection.execute(shown.order_by(*_directed(order, *page.c))).mappings().all()
        end = Cursor(**{name: rows[limit - 1][name] for name in ("value", "mid", "seq")}) if len(rows) > limit else None
        found = [summary_of({name: row[name] for name in row if name != "value"}) for row in rows[:limit]]
        return SearchPage(versions=tuple(found), next=str(end) if end else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Condition:
    """One condition in two forms: asked of a row of `versions`, and as the keys of all rows that fulfil it."""

    each: ColumnElement[bool]
    keys: Select[Any, Any]


def _lead(connection: Connection, conditions: list[_Condition]) -> tuple[list[ColumnElement[bool]], bool]:
    """Return all conditions, and whether the rarest, as a set of keys, is rare enough to be read whole."""
    counts = [
        connection.execute(select(func.count()).select_from(c.keys.limit(NARROW_MAX).subquery())).scalar_one()
        for c in conditions
    ]
    rarest = min(range(len(counts)), key=counts.__getitem__, default=None)
    if rarest is None or counts[rarest] >= NARROW_MAX:
        return [condition.each for condition in conditions], False
    lead = tuple_(versions.c.mid, versions.c.seq).in_(conditions[rarest].keys)
    return [lead, *(c.each for number, c in enumerate(conditions) if number != rarest)], True


def _of_kind(kind: AssetKind, order: SearchOrder, led: bool) -> list[ColumnElement[bool]]:
    if not led and order.key in ("created", "size"):
        return [versions.c.kind == kind.value]
    same = versions.c.kind.concat("") == kind.value
    return [same, assets.c.kind == kind.value] if order.key == "name" and not led else [same]


def _conditions(kind: AssetKind, query: SearchQuery) -> list[_Condition]:
    found = [_staged(kind, stage) for stage in query.stages]
    found += [_keyed(version_tags, _tag(term)) for term in query.tags]
    found += [_keyed(version_metrics, _metric(term)) for term in query.metrics]
    found += [_named(kind, text) for text in query.names]
    found += [_from_dataset(kind, term) for term in query.datasets]
    return found + [_aliased(kind, alias) for alias in query.aliases]


def _staged(kind: AssetKind, stage: Stage) -> _Condition:
    here = and_(_version.c.kind == kind.value, _version.c.stage == stage.value, _version.c.deleted.is_(None))
    return _Condition(each=versions.c.stage == stage.value, keys=select(_version.c.mid, _version.c.seq).where(here))


def _tag(term: TagTerm) -> ColumnElement[bool]:
    key = version_tags.c.key == term.key
    return key if term.value is None else and_(key, version_tags.c.value == term.value)


def _metric(term: Comparison) -> ColumnElement[bool]:
    return and_(version_metrics.c.name == term.metric, _COMPARE[term.op](version_metrics.c.value, term.value))


def _keyed(table: Table, condition: ColumnElement[bool]) -> _Condition:
    here = and_(table.c.mid == versions.c.mid, table.c.seq == versions.c.seq)
    return _Condition(
        each=exists().where(here, condition).correlate(versions), keys=select(table.c.mid, table.c.seq).where(condition)
    )


def _named(kind: AssetKind, text: str) -> _Condition:
    named = and_(_asset.c.kind == kind.value, _asset.c.name.contains(text, autoescape=True))
    return _Condition(
        each=assets.c.name.contains(text, autoescape=True),
        keys=select(_version.c.mid, _version.c.seq).join_from(_version, _asset).where(named),
    )


def _from_dataset(kind: AssetKind, term: DatasetTerm) -> _Condition:
    digests = (
        select(_dataset.c.digest)
        .join_from(_dataset, _dataset_asset)
        .where(_dataset_asset.c.kind == AssetKind.DATASET.value, _dataset_asset.c.name == term.name)
    )
    if term.seq is not None:
        digests = digests.where(_dataset.c.seq == term.seq)
    made = and_(_version.c.kind == kind.value, _version.c.dataset_digest.in_(digests))
    return _Condition(
        each=versions.c.dataset_digest.in_(digests), keys=select(_version.c.mid, _version.c.seq).where(made)
    )


def _aliased(kind: AssetKind, alias: str) -> _Condition:
    points = and_(aliases.c.kind == kind.value, aliases.c.alias == alias)
    here = and_(aliases.c.name == assets.c.name, aliases.c.seq == versions.c.seq)
    same_asset = and_(_asset.c.kind == aliases.c.kind, _asset.c.name == aliases.c.name)
    keys = select(_asset.c.mid, aliases.c.seq).join_from(aliases, _asset, same_asset).where(points)
    return _Condition(each=exists().where(points, here).correlate(assets, versions), keys=keys)


def _source(query: SearchQuery, order: SearchOrder, led: bool) -> FromClause:
    """Return the tables that conditions and order ask of; the rest is joined for the page alone."""
    source: FromClause = versions
    if query.names or query.aliases or order.key == "name":
        source = source.join(assets)
    if order.metric:
        same = and_(_sorted_by.c.mid == versions.c.mid, _sorted_by.c.seq == versions.c.seq)
        name = _sorted_by.c.name.concat("") if led else _sorted_by.c.name
        source = source.join(_sorted_by, and_(same, name == order.metric))
    return source


def _directed(order: SearchOrder, *columns: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    return [column.desc() if order.descending else column.asc() for column in columns]


def _column(order: SearchOrder) -> ColumnElement[Any]:
    if order.metric:
        return _sorted_by.c.value
    return {"created": versions.c.created, "name": assets.c.name, "size": versions.c.size_bytes}[order.key]
