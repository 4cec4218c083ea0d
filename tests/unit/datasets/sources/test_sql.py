"""Tables and queries: SQLite here, PostgreSQL where it is installed."""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa

from lightmill.errors import RequestError, UnavailableError
from tests.postgres import PASSWORD, PostgresServer, postgres_server, why_no_postgres
from tests.unit.datasets.sources.reading import at, read, source, values

URL = "sqlite:///d.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "d.db") as connection:
        connection.execute("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, age REAL, born DATE, photo BLOB)")
        connection.executemany(
            "INSERT INTO people VALUES (?, ?, ?, '2001-02-03', x'00ff')",
            [(n * 3, f"n{n}" if n % 5 else None, n / 2) for n in range(1, 101)],
        )
    connection.close()
    return tmp_path


def test_a_table_in_any_number_of_shards_gives_the_same_rows_in_order(folder: Path) -> None:
    tables = []
    for shards in (1, 3, 7, 60):
        found = source(folder, format="sql", url=URL, table="people", key="id", shards=shards)
        assert 1 <= len(found.parts()) <= shards
        tables.append(values(found, batch_rows=9))
    assert all(table == tables[0] for table in tables)
    assert [row["id"] for row in tables[0]] == [n * 3 for n in range(1, 101)]
    assert tables[0][0] == {"id": 3, "name": "n1", "age": 0.5, "born": datetime.date(2001, 2, 3), "photo": b"\0\xff"}


def test_a_query_and_declared_columns(folder: Path) -> None:
    query = "SELECT id, age * 2 AS twice, name FROM people WHERE id > 270"
    found = source(folder, format="sql", url=URL, query=query, key="id", shards=2)
    assert values(found)[0] == {"id": 273, "twice": 91.0, "name": "n91"}
    narrow = source(folder, {"name": pa.string()}, format="sql", url=URL, query=query, key="id")
    assert values(narrow)[0] == {"name": "n91"}
    narrow = source(folder, {"age": pa.float64()}, format="sql", url=URL, table="people", key="id", shards=2)
    assert values(narrow)[0] == {"age": 0.5}


def test_values_of_another_type_are_reported(folder: Path) -> None:
    with sqlite3.connect(folder / "d.db") as connection:
        connection.execute("UPDATE people SET age = 'old' WHERE id = 6")
        connection.execute("UPDATE people SET name = x'ff' WHERE id = 9")
    connection.close()
    columns = {"id": pa.int64(), "age": pa.float64(), "name": pa.string()}
    rows, bad = read(source(folder, columns, format="sql", url=URL, query="SELECT * FROM people", key="id", shards=50))
    assert len(rows) == 98
    assert [(b.file, b.row, b.column, b.kind) for b in bad] == [(0, 1, "age", "type"), (1, 0, "name", "type")]
    assert rows[0][0] == at(0, 0)


def test_cells_above_the_limit_are_reported(folder: Path) -> None:
    with sqlite3.connect(folder / "d.db") as connection:
        connection.execute("UPDATE people SET photo = zeroblob(100000) WHERE id = 6")
    connection.close()
    limits = {"cell_bytes": 5000}
    rows, bad = read(source(folder, format="sql", url=URL, table="people", key="id", limits=limits))
    assert (len(rows), [(b.row, b.column) for b in bad]) == (99, [(1, "photo")])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"table": "nobody", "key": "id"}, "no table nobody"),
        ({"table": "people", "key": "nokey"}, "no column 'nokey'"),
        ({"query": "SELECT * FROM nobody", "key": "id"}, "no such table"),
        ({"query": "SELECT ,", "key": "id"}, "syntax error"),
        ({"table": "people", "key": "name"}, "20 rows of table people have no 'name'"),
        ({"query": "SELECT 1 AS id UNION ALL SELECT 1", "key": "id"}, "1 repeated values"),
        ({"query": "SELECT 'x' AS id", "key": "id"}, "key must be an integer"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(folder: Path, spec: dict, said: str) -> None:
    found = source(folder, format="sql", url=URL, **spec)
    with pytest.raises(RequestError, match=said):
        found.schema()
        found.parts()


def test_an_empty_table_has_its_columns(folder: Path) -> None:
    with sqlite3.connect(folder / "d.db") as connection:
        connection.execute("DELETE FROM people")
    connection.close()
    found = source(folder, format="sql", url=URL, table="people", key="id", shards=4)
    assert read(found) == ([], [])
    assert found.schema().field("age").type == pa.float64()


def test_describe_depends_on_the_rows_alone(folder: Path) -> None:
    first = source(folder, format="sql", url=URL, table="people", key="id", shards=1).describe()
    assert source(folder, format="sql", url=URL, table="people", key="id", shards=1).describe() == first
    assert first[0].name == "sql: table people"
    with sqlite3.connect(folder / "d.db") as connection:
        connection.execute("UPDATE people SET age = 7 WHERE id = 6")
    connection.close()
    assert source(folder, format="sql", url=URL, table="people", key="id").describe() != first


def test_the_url_from_the_environment_is_in_no_message(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"format": "sql", "url_environment": "PEOPLE_URL", "table": "people", "key": "id"}
    with pytest.raises(RequestError, match="PEOPLE_URL is not set"):
        source(folder, **spec).parts()
    monkeypatch.setenv("PEOPLE_URL", "nonsense-with-password")
    with pytest.raises(RequestError) as said:
        source(folder, **spec).parts()
    assert "password" not in said.value.message
    monkeypatch.setenv("PEOPLE_URL", "postgresql://u:pass-7731@127.0.0.1:1/none?connect_timeout=2")
    with pytest.raises(UnavailableError) as away:
        source(folder, **spec).parts()
    assert "7731" not in str(away.value)
    monkeypatch.setenv("PEOPLE_URL", f"sqlite:///{folder / 'd.db'}")
    assert len(values(source(folder, **spec))) == 100


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    reason = why_no_postgres()
    if reason:
        print(f"skipping PostgreSQL: {reason}")
        pytest.skip(reason)
    with postgres_server() as server:
        yield server


def test_a_postgresql_table(postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres.new_database()
    monkeypatch.setenv("SOURCE_URL", url)
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT, price NUMERIC(10, 2), free NUMERIC, ok BOOLEAN, "
                "at TIMESTAMPTZ, extra JSONB, who UUID, raw BYTEA)"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO t SELECT n, 'n' || n, n / 4.0, 0.1, n % 2 = 0, '2020-01-01T00:00:00Z', "
                "'{\"a\": 1}', gen_random_uuid(), '\\x00ff' FROM generate_series(1, 900) AS n"
            )
        )
    engine.dispose()
    spec = {"format": "sql", "url_environment": "SOURCE_URL", "table": "t", "key": "id"}
    found = source(tmp_path, shards=4, **spec)
    rows = values(found, batch_rows=70)
    assert [row["id"] for row in rows] == list(range(1, 901))
    first = rows[0]
    assert str(first["price"]) == "0.25"
    assert (first["free"], first["ok"], first["extra"], first["raw"]) == ("0.1", False, '{"a": 1}', b"\0\xff")
    assert first["at"] == datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    assert values(source(tmp_path, **spec)) == rows
    floats = source(tmp_path, {"price": pa.float64()}, **spec)
    assert values(floats)[0] == {"price": 0.25}
    assert PASSWORD not in found.describe()[0].model_dump_json()
    postgres.drop_database(url)
