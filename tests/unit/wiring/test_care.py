"""The operations of care on a deployment that is down, as the command runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightmill.catalog import Catalog
from lightmill.cli.main import app
from lightmill.errors import ConflictError, IntegrityError, NotFoundError, RequestError
from lightmill.records.base import Record
from lightmill.records.care import CheckReport
from lightmill.records.jobs import Progress
from lightmill.records.references import Reference
from lightmill.settings import Settings
from lightmill.storage import LocalStore
from lightmill.wiring.bootstrap import bootstrap
from lightmill.wiring.operations import OperationContext, run_operation
from lightmill.wiring.platform import open_platform
from tests.attacks.stage import RUN, files, publish


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(home=tmp_path / "home", store="", catalog="", workspace="default")
    bootstrap(made)
    platform = open_platform(made)
    for n in range(3):
        publish(platform.registry, "r", files(n))
    platform.registry.set_alias(RUN, "r", "best", 2)
    platform.catalog.close()
    return made


def operate(settings: Settings, name: str, **options: object) -> Record:
    told: list[Progress] = []
    return run_operation(name, options, OperationContext(settings=settings, report=told.append))


def record(settings: Settings, seq: int) -> Path:
    store = LocalStore(Path(settings.store_url))
    (name,) = [name for name in store.list("r/") if name.endswith(f"/v/{seq:010d}")]
    return store.path(name)


def test_a_check_compares_with_the_catalog_and_goes_on_without(settings: Settings) -> None:
    report = operate(settings, "registry.check", deep=True)
    assert isinstance(report, CheckReport)
    assert (report.findings, report.marks, report.versions) == ((), 2, 3)
    for path in settings.home.glob("catalog.db*"):
        path.unlink()
    report = operate(settings, "registry.check")
    assert isinstance(report, CheckReport) and report.marks is None


@pytest.mark.parametrize("options", [{"sample": 0}, {"sample": 101}, {"deeper": True}])
def test_wrong_options_are_a_wrong_request(settings: Settings, options: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        operate(settings, "registry.check", **options)


def test_a_collection_refuses_a_store_that_was_rolled_back(settings: Settings) -> None:
    operate(settings, "registry.gc", apply=True)
    record(settings, 3).unlink()
    with pytest.raises(IntegrityError, match="the catalog has seen"):
        operate(settings, "registry.gc", apply=True)


def test_a_rebuild_refuses_a_catalog_that_has_rows_and_fills_an_empty_one(settings: Settings) -> None:
    with pytest.raises(ConflictError):
        operate(settings, "registry.rebuild")
    for path in settings.home.glob("catalog.db*"):
        path.unlink()
    assert operate(settings, "registry.rebuild").model_dump() == {
        "assets": 1,
        "versions": 3,
        "aliases": 1,
        "unreadable": (),
    }


def test_a_repair_needs_copies_of_this_store(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        operate(settings, "registry.repair", sources=(str(tmp_path / "nowhere"),))
    operate(settings, "registry.backup", target=str(tmp_path / "copy"))
    record(settings, 2).unlink()
    report = operate(settings, "registry.repair", sources=(str(tmp_path / "copy"),)).model_dump()
    assert len(report["repaired"]) == 1 and report["catalog"] and report["lost"] == ()


def test_a_restore_without_a_key_ring_says_where_it_belongs(settings: Settings, tmp_path: Path) -> None:
    operate(settings, "registry.backup", target=str(tmp_path / "copy"))
    shutil.rmtree(settings.home)
    with pytest.raises(NotFoundError, match="key ring"):
        operate(settings, "registry.restore", source=str(tmp_path / "copy"))
    assert not settings.home.exists() or not list(settings.home.rglob("b/*"))


def test_a_wiped_site_comes_back_by_the_command(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catalog and store wiped; only the key ring, which has a backup of its own, is put back."""
    monkeypatch.setenv("LIGHTMILL_HOME", str(settings.home))
    for name in ("STORE", "CATALOG", "WORKSPACE"):
        monkeypatch.delenv(f"LIGHTMILL_{name}", raising=False)
    copy, before = str(tmp_path / "copy"), resolved(settings)

    def run(*arguments: str, code: int = 0) -> dict[str, object]:
        done = CliRunner().invoke(app, ["registry", *arguments, "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout.splitlines()[-1])

    assert run("backup", copy)["versions"] == 3
    record(settings, 2).write_bytes(b"damaged")
    found = run("check", code=6)
    assert [finding["problem"] for finding in found["findings"]][:1] == ["damaged"]  # pyright: ignore
    ring = settings.keyring_path.read_bytes()
    shutil.rmtree(settings.home)
    settings.keyring_path.parent.mkdir(parents=True, mode=0o700)
    settings.keyring_path.write_bytes(ring)
    settings.keyring_path.chmod(0o600)
    assert run("restore", copy)["rebuilt"]["versions"] == 3  # pyright: ignore
    bootstrap(settings)  # `lightmill up` goes on from there
    assert resolved(settings) == before


def resolved(settings: Settings) -> list[object]:
    platform = open_platform(settings)
    found: list[object] = []
    for selector in ("1", "2", "3", "latest", "best"):
        id = platform.registry.resolve(RUN, Reference(name="r", selector=selector))
        opened = platform.registry.open(id)
        found.append((id, {file.path: opened.read_file(file.path) for file in opened.manifest.files}))
    with Catalog.open(settings.catalog_url) as catalog:
        found.append([summary.id for summary in catalog.versions.list(RUN, "r")])
    return found


@pytest.mark.parametrize("arguments", [("check",), ("gc",), ("gc", "--apply"), ("rebuild",)])
def test_people_get_tables(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """The words for people, around the operation itself in this process."""
    from lightmill.cli import registry

    if arguments == ("rebuild",):
        for path in settings.home.glob("catalog.db*"):
            path.unlink()
    monkeypatch.setattr(
        registry, "operate", lambda name, options, quiet: operate(settings, name, **options).model_dump(mode="json")
    )
    done = CliRunner().invoke(app, ["registry", *arguments])
    assert done.exit_code == 0, done.output
    shown = done.output + capsys.readouterr().out
    assert {"check": "whole", "gc": "Collection", "rebuild": "versions"}[arguments[0]] in shown
