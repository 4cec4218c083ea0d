"""What a database refuses, and that no message tells the password."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightmill.catalog import Catalog, engine
from lightmill.errors import IntegrityError, LightmillError, RequestError, UnavailableError
from tests.postgres import PASSWORD, PostgresServer

NOBODY = 65534


def everything_said(error: BaseException | None) -> str:
    """The messages of an error and of all that it came from."""
    said = []
    while error is not None:
        said.append(f"{error!r} {error}")
        error = error.__cause__ or error.__context__
    return " ".join(said)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can enter, unlike pytest's."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize(
    "url",
    [
        "", "catalog.db", "mysql://u:hunter2@h/d", "sqlite://", "sqlite:///:memory:", "sqlite://host/x.db",
        "postgresql://u:hunter2@h:port/d",
    ],
)  # fmt: skip
def test_a_url_that_is_no_catalog_is_refused(url: str) -> None:
    with pytest.raises(RequestError, match="sqlite:////absolute") as caught:
        Catalog.open(url)
    assert "hunter2" not in everything_said(caught.value)


def test_opening_touches_nothing(tmp_path: Path) -> None:
    Catalog.open(f"sqlite:///{tmp_path / 'home' / 'catalog.db'}").close()
    Catalog.open("postgresql://nobody:secret@127.0.0.1:1/none").close()
    assert list(tmp_path.iterdir()) == []


def test_a_new_sqlite_file_is_private_and_written_ahead(tmp_path: Path) -> None:
    path = tmp_path / "home" / "deep" / "catalog.db"
    old = os.umask(0)
    try:
        with Catalog.open(f"sqlite:///{path}") as catalog:
            catalog.migrate()
            for name in ("catalog.db", "catalog.db-wal", "catalog.db-shm"):
                assert stat.S_IMODE(path.with_name(name).stat().st_mode) == 0o600
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_every_sqlite_connection_is_prepared(tmp_path: Path) -> None:
    built = engine.build_engine(engine.parse_url(f"sqlite:///{tmp_path / 'c.db'}"))
    with built.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("busy_timeout", "foreign_keys", "synchronous", "journal_mode")
        }
    built.dispose()
    assert found == {"busy_timeout": 30_000, "foreign_keys": 1, "synchronous": 1, "journal_mode": "wal"}


def test_a_read_only_connection_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    with Catalog.open(f"sqlite:///{path}") as catalog:
        catalog.migrate()
        with Catalog.open(f"sqlite:///file:{path}?mode=ro&uri=true") as reader:
            assert reader.facts.get("key") is None
            with pytest.raises(UnavailableError, match=r"readonly.*give this user the right to write"):
                reader.facts.set_once("key", "value")


def use_as_nobody(queue, url: str) -> None:
    if os.geteuid() == 0:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    try:
        Catalog.open(url).facts.set_once("key", "value")
        queue.put("written")
    except LightmillError as exc:
        queue.put(f"{type(exc).__name__}: {exc}")


def said_to_nobody(url: str) -> str:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=use_as_nobody, args=(queue, url))
    process.start()
    said = queue.get(timeout=60)
    process.join(10)
    return said


def test_a_read_only_file_is_unavailable(folder: Path) -> None:
    path = folder / "catalog.db"
    with Catalog.open(f"sqlite:///{path}") as catalog:
        catalog.migrate()
    path.chmod(0o444)
    folder.chmod(0o555)
    said = said_to_nobody(f"sqlite:///{path}")
    folder.chmod(0o755)
    assert said.startswith(f"UnavailableError: The catalog sqlite:///{path} cannot be used now")
    assert "To do: give this user the right" in said or "may read and write" in said


def test_a_folder_that_cannot_be_made_is_unavailable(folder: Path) -> None:
    folder.chmod(0o555)
    said = said_to_nobody(f"sqlite:///{folder / 'home' / 'catalog.db'}")
    folder.chmod(0o755)
    assert said.startswith("UnavailableError") and "give this user the right" in said


def test_a_file_in_the_way_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(UnavailableError, match=r"catalog.db cannot be used"):
        Catalog.open(f"sqlite:///{tmp_path / 'home' / 'catalog.db'}").migrate()


def test_a_damaged_file_is_an_integrity_error(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.write_bytes(b"this is no database " * 500)
    with pytest.raises(IntegrityError, match=r"damaged.*Restore a backup"):
        Catalog.open(f"sqlite:///{path}").migrate()


def test_a_full_disk_is_unavailable(tmp_path: Path) -> None:
    with Catalog.open(f"sqlite:///{tmp_path / 'catalog.db'}") as catalog:
        catalog.migrate()
        with catalog._database.write() as connection:  # the pool keeps this one connection
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        with pytest.raises(UnavailableError, match=r"full.*free some space"):
            catalog.facts.set_once("key", "x" * 1_000_000)
        assert catalog.facts.get("key") is None


def test_a_lock_that_is_kept_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LOCK_TIMEOUT_S", 0.2)
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    with Catalog.open(url) as one, Catalog.open(url) as other:
        one.migrate()
        with one._database.write():
            assert other.facts.get("key") is None
            with pytest.raises(UnavailableError, match=r"locked.*try again"):
                other.facts.set_once("key", "value")
        assert other.facts.set_once("key", "value") == "value"


def test_a_row_that_is_no_record_is_an_integrity_error(catalog: Catalog) -> None:
    with catalog._database.write() as connection:
        connection.exec_driver_sql(
            "INSERT INTO epochs (run, epoch, metrics, created) VALUES ('r', 1, '{\"loss\": \"much\"}', 't')"
        )
    with pytest.raises(IntegrityError, match=r"EpochMetrics: metrics.loss"):
        catalog.runs.epochs("r")


def test_a_server_that_does_not_answer_is_unavailable_without_the_password() -> None:
    url = "postgresql://me:hunter2@127.0.0.1:1/none?sslpassword=hunter3"
    with pytest.raises(UnavailableError, match=r"postgresql://me:\*\*\*@127.0.0.1:1/none .*start") as caught:
        Catalog.open(url).migrate()
    assert "hunter" not in everything_said(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_wrong_password_is_never_repeated(postgres: PostgresServer) -> None:
    with pytest.raises(UnavailableError, match="correct the user or the password") as caught:
        Catalog.open(postgres.url("postgres", password="hunter2-wrong")).migrate()
    assert "hunter2" not in everything_said(caught.value)


def test_the_shown_url_has_no_password(postgres: PostgresServer) -> None:
    catalog = Catalog.open(postgres.url("postgres"))
    assert PASSWORD not in catalog.url
    assert catalog.url == f"postgresql://lightmill:***@127.0.0.1:{postgres.port}/postgres"


def test_a_missing_database_is_unavailable(postgres: PostgresServer) -> None:
    with pytest.raises(UnavailableError, match=r"does not exist.*createdb"):
        Catalog.open(postgres.url("nowhere")).migrate()


def test_a_broken_connection_heals(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    with Catalog.open(url) as catalog:
        catalog.migrate()
        with Catalog.open(url) as other, other._database.write() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert catalog.facts.set_once("key", "value") == "value"


def test_a_text_with_a_zero_byte_is_refused_by_postgresql(postgres: PostgresServer) -> None:
    with Catalog.open(postgres.new_database()) as catalog:
        catalog.migrate()
        with pytest.raises(RequestError, match="cannot keep"):
            catalog.facts.set_once("key", "a\x00b")
