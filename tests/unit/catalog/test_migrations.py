from __future__ import annotations

import multiprocessing
import time

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from lightmill.catalog import Catalog
from lightmill.catalog.database import Database
from lightmill.catalog.engine import build_engine, parse_url
from lightmill.catalog.migrate import scripts
from lightmill.catalog.tables import HEAD, REVISION_TABLE, metadata
from lightmill.errors import UnavailableError
from lightmill.records.annotations import Notes
from lightmill.records.endpoints import ApiKey
from lightmill.records.references import AssetKind
from lightmill.records.search import SearchOrder, parse_query
from tests.unit.catalog.examples import run_together


def migrate_and_set(wait, url: str, me: int) -> str:
    wait()
    with Catalog.open(url) as catalog:
        catalog.migrate()
        return catalog.facts.set_once("first", str(me))


def execute(url: str, statement: str) -> None:
    engine = build_engine(parse_url(url))
    with engine.begin() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()


def test_the_migrations_make_the_tables_that_the_code_uses(url: str, catalog: Catalog) -> None:
    engine = build_engine(parse_url(url))
    with engine.connect() as connection:
        options = {"version_table": REVISION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
        inspector = sa.inspect(connection)
        for table in metadata.sorted_tables:
            found = inspector.get_pk_constraint(table.name)
            assert (found["name"], found["constrained_columns"]) == (
                f"pk_{table.name}",
                [column.name for column in table.primary_key],
            )
    engine.dispose()


def test_the_revisions_are_numbers_in_one_line() -> None:
    script = ScriptDirectory.from_config(scripts())
    revisions = [found.revision for found in script.walk_revisions()]
    assert revisions[0] == HEAD
    assert revisions == [f"{number:04d}" for number in range(len(revisions), 0, -1)]


def test_migrating_again_changes_nothing(catalog: Catalog) -> None:
    catalog.facts.set_once("key", "value")
    catalog.migrate()
    assert catalog.facts.get("key") == "value"


def test_processes_may_migrate_at_once(url: str) -> None:
    found = run_together(migrate_and_set, *((url, me) for me in range(3)))
    assert len(set(found)) == 1


def test_a_catalog_without_tables_says_what_to_do(url: str) -> None:
    with Catalog.open(url) as catalog, pytest.raises(UnavailableError, match=r"no tables yet.*lightmill up"):
        catalog.facts.get("key")


@pytest.mark.parametrize("revision", ["9999", "abcdef"])
def test_a_newer_catalog_is_refused(url: str, catalog: Catalog, revision: str) -> None:
    execute(url, f"UPDATE {REVISION_TABLE} SET version_num = '{revision}'")
    with Catalog.open(url) as older:
        with pytest.raises(UnavailableError, match=f"revision {revision}.*newer Lightmill"):
            older.migrate()
        with pytest.raises(UnavailableError, match="newer Lightmill"):
            older.facts.get("key")


def test_an_older_catalog_is_migrated_before_it_is_used(url: str, catalog: Catalog) -> None:
    execute(url, f"UPDATE {REVISION_TABLE} SET version_num = '0000'")
    with Catalog.open(url) as other, pytest.raises(UnavailableError, match="older revision 0000"):
        other.facts.get("key")


def test_versions_of_the_first_revision_are_kept_and_become_searchable(url: str) -> None:
    database = Database(url)
    with database.migration() as connection:
        config = scripts()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(sa.text("INSERT INTO assets VALUES ('a', 'model', 'digits', 'default')"))
        connection.execute(
            sa.text(
                "INSERT INTO versions (mid, seq, digest, created, size_bytes, metrics, provenance, card) "
                "VALUES ('a', 1, 'd', '2026-01-01', 5, '{\"accuracy\": 0.9}', '{}', '{}')"
            )
        )
    with Catalog.open(url) as catalog:
        catalog.migrate()
        summary = catalog.versions.get(AssetKind.MODEL, "digits", 1)
        assert (summary.metrics, summary.stage, summary.tags) == ({"accuracy": 0.9}, "none", {})
        query = parse_query("metrics.accuracy>=0.9 digits")
        assert catalog.search.versions(AssetKind.MODEL, query, SearchOrder(), limit=9).versions == (summary,)
        assert catalog.notes.get(AssetKind.MODEL, "digits", 1) == Notes()


def test_keys_from_before_scopes_may_do_everything_as_they_could(url: str) -> None:
    database = Database(url)
    with database.migration() as connection:
        config = scripts()
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        connection.execute(
            sa.text(
                "INSERT INTO api_keys (id, name, secret_sha256, role, created) "
                "VALUES ('00112233', 'ci', 'aa', 'admin', '2026-01-01')"
            )
        )
    with Catalog.open(url) as catalog:
        catalog.migrate()
        assert catalog.keys.list() == [
            ApiKey(id="00112233", name="ci", secret_sha256="aa", scopes=("admin",), created="2026-01-01")
        ]


def test_a_migration_that_fails_leaves_nothing(url: str) -> None:
    execute(url, "CREATE TABLE facts (key TEXT)")  # the last table of the first migration is in the way
    with Catalog.open(url) as catalog:
        with pytest.raises((UnavailableError, sa.exc.ProgrammingError)):
            catalog.migrate()
        assert Database(url).revision() is None
        execute(url, "DROP TABLE facts")
        catalog.migrate()
        assert catalog.facts.set_once("key", "value") == "value"


def test_a_killed_process_leaves_no_lock(url: str, catalog: Catalog) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold_lock, args=(ready, url))
    process.start()
    assert ready.wait(60)
    process.kill()
    process.join(10)
    assert catalog.facts.set_once("key", "mine") == "mine"


def hold_lock(ready, url: str) -> None:
    with Database(url).write() as connection:
        connection.execute(sa.text("INSERT INTO facts (key, value) VALUES ('key', 'theirs')"))
        ready.set()
        time.sleep(60)
