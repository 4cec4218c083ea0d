"""What a catalog of 10,000 models with 10 versions each answers in, over one of 100 such models.

Three questions, on SQLite and on PostgreSQL: a page of models, a page of a search, and the version that an alias
points at. The figure is the ratio of the 99th percentiles, the two catalogs asked in turn; each page is full on
both, so that the answers are equally long. Rows are written in bulk, not through the registry.
"""

from __future__ import annotations

import gc
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import insert, text

from benchmarks.figures import figure, note
from lightmill.catalog import Catalog
from lightmill.catalog.database import Database
from lightmill.catalog.tables import aliases, assets, version_metrics, version_tags, versions
from lightmill.errors import NotFoundError
from lightmill.records.references import AssetKind
from lightmill.records.search import SearchOrder, parse_query
from tests.postgres import postgres_server, why_no_postgres

SMALL, LARGE, VERSIONS = 100, 10_000, 10
PAGE = 10
ROUNDS = 7
CALLS = 150
MODEL = AssetKind.MODEL
SEARCHES = (
    "metrics.test_accuracy>=0.96 tag:team=vision stage:production",
    "tag:team=vision metrics.test_accuracy>=0.9",
    "metrics.test_accuracy>=0.99",
    "tag:owner=p07",
    "stage:staging",
    "alias:champion tag:team=speech",
    "model-000",
)
Ask = Callable[[Catalog, random.Random, int], object]


def main() -> None:
    """Ask both catalogs in turn, on each database."""
    with tempfile.TemporaryDirectory() as folder:
        urls = [f"sqlite:///{Path(folder) / f'{models}.db'}" for models in (SMALL, LARGE)]
        _compare("sqlite", urls)
    reason = why_no_postgres()
    if reason:
        note(f"  PostgreSQL is left out: {reason}")
        return
    with postgres_server() as server:
        _compare("postgresql", [server.new_database() for _ in range(2)])


def _compare(database: str, urls: list[str]) -> None:
    with _filled(urls[0], SMALL) as small, _filled(urls[1], LARGE) as large:
        for what, ask in _questions().items():
            ours, peer, spread = [], [], []
            for round in range(ROUNDS):
                both = _measure(ask, ((large, LARGE), (small, SMALL)), random.Random(round))
                ours.append(_p99(both[0]))
                peer.append(_p99(both[1]))
                spread.append(sorted(both[0])[CALLS // 2])
            figure(
                f"catalog_scale_{what}",
                "ms p99",
                ours,
                peer,
                goal="<= 2.0",
                holds=lambda ratio: ratio <= 2.0,
                database=database,
                models=LARGE,
                peer_models=SMALL,
                median_ms=round_(sorted(spread)[ROUNDS // 2]),
            )


def _questions() -> dict[str, Ask]:
    def list_page(catalog: Catalog, chance: random.Random, models: int) -> object:
        found = catalog.versions.assets(MODEL, after=_name(chance.randrange(models - PAGE - 1)), limit=PAGE)
        assert len(found) == PAGE
        return found

    def search(catalog: Catalog, chance: random.Random, models: int) -> object:
        query = parse_query(chance.choice(SEARCHES))
        found = catalog.search.versions(MODEL, query, SearchOrder(), limit=PAGE)
        assert len(found.versions) == PAGE, (models, str(query), len(found.versions))
        return found

    def resolve(catalog: Catalog, chance: random.Random, models: int) -> object:
        try:
            return catalog.versions.aliased(MODEL, _name(chance.randrange(models)), "champion")
        except NotFoundError as exc:
            raise SystemExit(exc.message) from exc

    return {"list_page": list_page, "search": search, "resolve_alias": resolve}


def _measure(ask: Ask, catalogs: tuple[tuple[Catalog, int], ...], chance: random.Random) -> list[list[float]]:
    """Return milliseconds a call for each catalog; calls alternate, so that both meet the same machine."""
    found: list[list[float]] = [[] for _ in catalogs]
    gc.collect()
    gc.disable()
    try:
        for call in range(CALLS + 10):
            seed = chance.random()
            for times, (catalog, models) in zip(found, catalogs, strict=True):
                draw = random.Random(seed)
                start = time.perf_counter()
                ask(catalog, draw, models)
                if call >= 10:
                    times.append((time.perf_counter() - start) * 1000)
    finally:
        gc.enable()
    return found


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


def round_(value: float) -> float:
    """Return a time as figures show it."""
    return round(value, 3)


@contextmanager
def _filled(url: str, models: int) -> Iterator[Catalog]:
    with Catalog.open(url) as catalog:
        catalog.migrate()
        note(f"  writing {models} models with {VERSIONS} versions each to {catalog.url} ...")
        database = Database(url)
        chance = random.Random(7)
        step = 500
        for first in range(0, models, step):
            with database.write() as connection:
                for table, rows in _rows(range(first, min(first + step, models)), models, chance).items():
                    connection.execute(insert(table), rows)
        with database.write() as connection:
            if connection.dialect.name == "postgresql":  # which does so by itself, only later; SQLite never does
                connection.execute(text("ANALYZE"))
        database.dispose()
        yield catalog


def _name(model: int) -> str:
    return f"model-{model:05d}"


def _rows(numbers: range, models: int, chance: random.Random) -> dict:
    """One page of versions has the tag `owner=p07`, whatever the size; the other shares stay the same."""
    owned = {number * models // PAGE for number in range(PAGE)}
    rows: dict = {table: [] for table in (assets, versions, version_metrics, version_tags, aliases)}
    for number in numbers:
        mid = f"{chance.getrandbits(128):032x}"
        rows[assets].append({"mid": mid, "kind": "model", "name": _name(number), "workspace": "default"})
        for seq in range(1, VERSIONS + 1):
            accuracy = 0.9 + chance.random() * 0.1
            metrics = {"test_accuracy": accuracy, "validation_loss": chance.random(), "epochs": 10.0}
            tags = {"team": ("vision", "speech")[number % 2]}
            if seq == 1 and number in owned:
                tags["owner"] = "p07"
            stage = {VERSIONS: "production", VERSIONS - 1: "staging"}.get(seq, "none")
            rows[versions].append(_version(mid, seq, number, metrics, tags, stage, chance))
            here = {"mid": mid, "seq": seq}
            rows[version_metrics] += [here | {"name": name, "value": value} for name, value in metrics.items()]
            rows[version_tags] += [here | {"key": key, "value": value} for key, value in tags.items()]
        rows[aliases].append(
            {"kind": "model", "name": _name(number), "alias": "champion", "seq": VERSIONS, "n": VERSIONS}
        )
    return rows


def _version(
    mid: str, seq: int, number: int, metrics: dict, tags: dict, stage: str, chance: random.Random
) -> dict[str, object]:
    day = f"2026-{1 + seq:02d}-{1 + number % 28:02d}T{chance.randrange(24):02d}:00:00.{chance.randrange(1000):03d}Z"
    return {
        "mid": mid,
        "seq": seq,
        "digest": f"{chance.getrandbits(256):064x}",
        "created": day,
        "size_bytes": chance.randrange(1 << 30),
        "metrics": metrics,
        "provenance": {"run": f"run-{number}-{seq}", "packages": {"torch": "2.13.0", "ray": "2.60.0"}},
        "card": {"classes": [str(n) for n in range(10)], "metrics": metrics},
        "dataset_digest": None,
        "base_digest": None,
        "kind": "model",
        "stage": stage,
        "tags": tags,
        "text": {},
        "evaluations": [],
        "deleted": None,
    }
