"""One suite for both databases: `url` is an empty one, `catalog` a migrated one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lightmill.catalog import Catalog
from tests.postgres import PostgresServer, postgres_server, why_no_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    reason = why_no_postgres()
    if reason:
        print(f"skipping PostgreSQL: {reason}")
        pytest.skip(reason)
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'home' / 'catalog.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    database = server.new_database()
    yield database
    server.drop_database(database)


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    with Catalog.open(url) as catalog:
        catalog.migrate()
        yield catalog
