"""Searches on both databases, against a plain loop over the same versions."""

from __future__ import annotations

import random

import pytest

from lightmill.catalog import Catalog
from lightmill.catalog import search as search_module
from lightmill.records.annotations import Stage
from lightmill.records.assets import Deletion, VersionSummary
from lightmill.records.references import AssetKind
from lightmill.records.search import SearchOrder, SearchPage, parse_cursor, parse_order, parse_query
from tests.unit.catalog.examples import version, version_id

MODEL = AssetKind.MODEL
ROWS = [version_id("rows", seq, AssetKind.DATASET) for seq in (1, 2)]


def everything() -> list[VersionSummary]:
    """30 models of 4 versions with chosen metrics, tags and stages; two of them deleted."""
    chance = random.Random(3)
    found = []
    for model in range(30):
        for seq in range(1, 5):
            name = f"{'digits' if model % 2 else 'letters'}-{model:02d}"
            metrics = {"accuracy": chance.randrange(10) / 10}
            if chance.random() < 0.5:
                metrics["loss"] = chance.random()
            tags = {"team": chance.choice(["vision", "speech lab"])} | ({"odd": "x_%"} if seq % 2 else {})
            found.append(
                version(name, seq, dataset=chance.choice([None, *ROWS])).model_copy(
                    update={
                        "metrics": metrics,
                        "tags": tags,
                        "stage": chance.choice(list(Stage)),
                        "created": f"2026-01-{chance.randrange(1, 29):02d}T00:00:00.000Z",
                        "size_bytes": chance.randrange(5) * 2**33,
                        "card": {},
                    }
                )
            )
    return found


VERSIONS = everything()
ALIASES = {("digits-01", "champion"): 2, ("letters-04", "champion"): 1, ("letters-04", "canary"): 3}
GONE = {("digits-03", 1), ("letters-02", 4)}


@pytest.fixture
def filled(catalog: Catalog) -> Catalog:
    for seq in (1, 2):
        catalog.versions.record(version("rows", seq, kind=AssetKind.DATASET), "default")
    for summary in VERSIONS:
        catalog.versions.record(summary, "default")
    for (name, alias), seq in ALIASES.items():
        catalog.versions.set_alias(MODEL, name, alias, seq, 1)
    for summary in VERSIONS:
        if (summary.id.name, summary.id.seq) in GONE:
            said = Deletion(at="t", reason="bad", publisher="p")
            stub = VersionSummary(id=summary.id, mid=summary.mid, created="t", size_bytes=1, deleted=said)
            catalog.versions.record_deleted(stub, "default")
    return catalog


def fulfils(summary: VersionSummary, text: str) -> bool:
    query = parse_query(text)
    name, dataset = summary.id.name, summary.provenance.dataset
    return all(
        [
            (name, summary.id.seq) not in GONE,
            *(part in name for part in query.names),
            *((summary.tags.get(t.key) == t.value) if t.value else (t.key in summary.tags) for t in query.tags),
            *(summary.stage is stage for stage in query.stages),
            *(ALIASES.get((name, alias)) == summary.id.seq for alias in query.aliases),
            *(dataset and dataset.name == d.name and d.seq in (None, dataset.seq) for d in query.datasets),
            *(condition.holds(summary.metrics) for condition in query.metrics),
            *(summary.created >= t.value if t.op == ">=" else summary.created <= t.value for t in query.created),
        ]
    )


def sorted_by(found: list[VersionSummary], order: SearchOrder) -> list[VersionSummary]:
    def key(summary: VersionSummary) -> tuple:
        values = {"created": summary.created, "name": summary.id.name, "size": summary.size_bytes}
        value = summary.metrics[order.metric] if order.metric else values[order.key]
        return value, summary.mid, summary.id.seq

    kept = [summary for summary in found if not order.metric or order.metric in summary.metrics]
    return sorted(kept, key=key, reverse=order.descending)


def page(catalog: Catalog, text: str, sort: str = "-created", limit: int = 500, after: str = "") -> SearchPage:
    cursor = parse_cursor(after) if after else None
    return catalog.search.versions(MODEL, parse_query(text), parse_order(sort), limit=limit, after=cursor)


QUERIES = [
    "",
    "digits",
    "digits-0",
    "t-e",
    "_",
    "tag:team",
    "tag:team=vision",
    'tag:team="speech lab" tag:odd',
    'tag:odd="x_%"',
    "tag:odd=x",
    "stage:production",
    "stage:production stage:staging",
    "alias:champion",
    "alias:champion letters",
    "dataset:rows",
    "dataset:rows@2 stage:staging",
    "dataset:nowhere",
    "metrics.accuracy>=0.7",
    "metrics.accuracy=0.5 metrics.loss<0.5",
    "metrics.accuracy!=0.5",
    "metrics.missing>0",
    "created>=2026-01-10 created<=2026-01-12",
    "metrics.accuracy>=0.3 tag:team=vision stage:archived digits",
]


@pytest.mark.parametrize("narrow", [500, 30, 0], ids=["rare leads", "some lead", "order leads"])
def test_a_search_finds_what_a_loop_finds(filled: Catalog, monkeypatch: pytest.MonkeyPatch, narrow: int) -> None:
    monkeypatch.setattr(search_module, "NARROW_MAX", narrow)
    for text in QUERIES:
        expected = [summary for summary in VERSIONS if fulfils(summary, text)]
        for sort in ("-created", "name", "size", "-metrics.loss"):
            found = list(page(filled, text, sort).versions)
            assert found == sorted_by(expected, parse_order(sort)), (text, sort)


@pytest.mark.parametrize("sort", ["-created", "created", "name", "-size", "metrics.accuracy"])
def test_pages_follow_each_other_without_a_gap(filled: Catalog, sort: str) -> None:
    whole = list(page(filled, "tag:team=vision", sort).versions)
    parts, after = [], ""
    while True:
        found = page(filled, "tag:team=vision", sort, limit=7, after=after)
        parts += found.versions
        if found.next is None:
            break
        assert len(found.versions) == 7
        after = found.next
    assert parts == whole and len(whole) > 21


def test_a_page_that_ends_with_the_last_version_is_the_last(filled: Catalog) -> None:
    count = len(page(filled, "").versions)
    assert page(filled, "", limit=count).next is None
    assert page(filled, "", limit=count - 1).next is not None


def test_kinds_are_searched_apart(filled: Catalog) -> None:
    found = filled.search.versions(AssetKind.DATASET, parse_query(""), SearchOrder(), limit=10)
    assert [str(summary.id) for summary in found.versions] == ["rows@2", "rows@1"]


def test_assets_are_listed_by_page(filled: Catalog) -> None:
    whole = filled.versions.assets(MODEL)
    assert filled.versions.count(MODEL) == len(whole) == 30
    first = filled.versions.assets(MODEL, limit=7)
    assert first == whole[:7]
    assert filled.versions.assets(MODEL, limit=100, after=first[-1].name) == whole[7:]
    assert filled.versions.assets(MODEL, limit=5, after=whole[-1].name) == []


def test_an_alias_is_looked_up(filled: Catalog) -> None:
    found = filled.versions.aliased(MODEL, "letters-04", "canary")
    assert (found.id.name, found.id.seq) == ("letters-04", 3)
