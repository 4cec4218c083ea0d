"""What a new deployment needs: made once, changed never, refused where things do not belong together."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lightmill.access import KeyChecker
from lightmill.catalog import Catalog
from lightmill.errors import IntegrityError, NotFoundError, UnavailableError
from lightmill.records.references import AssetKind
from lightmill.registry import Content
from lightmill.settings import Settings
from lightmill.vault import KeyRing
from lightmill.wiring.bootstrap import bootstrap, write_secret
from lightmill.wiring.platform import open_platform


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", store="", catalog="", workspace="default")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


def publish_something(settings: Settings) -> None:
    registry = open_platform(settings).registry
    registry.commit(registry.begin(AssetKind.RUN, "r"), Content())


def test_a_new_home_gets_everything_a_platform_opens(settings: Settings) -> None:
    bootstrap(settings)
    platform = open_platform(settings)
    assert platform.registry.latest(AssetKind.MODEL, "m") == 0
    with Catalog.open(settings.catalog_url) as catalog:
        key = KeyChecker(catalog.keys.list()).check(None, settings.api_key_path.read_text().strip())
    assert (key.name, key.role) == ("admin", "admin")
    assert len(settings.ray_token_path.read_text().strip()) == 64


def test_a_second_time_changes_nothing(settings: Settings) -> None:
    bootstrap(settings)
    before = contents(settings.home)
    bootstrap(settings)
    assert contents(settings.home) == before
    with Catalog.open(settings.catalog_url) as catalog:
        assert len(catalog.keys.list()) == 1


def test_nothing_of_a_home_is_open_to_others(settings: Settings) -> None:
    previous = os.umask(0o022)
    try:
        bootstrap(settings)
        publish_something(settings)
    finally:
        os.umask(previous)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [settings.home, *settings.home.rglob("*")]}
    assert len(modes) > 10
    wrong = {str(p): oct(m) for p, m in modes.items() if m != (0o700 if p.is_dir() else 0o600)}
    assert wrong == {}


def test_a_lost_token_or_key_file_is_made_again(settings: Settings) -> None:
    bootstrap(settings)
    ring = settings.keyring_path.read_bytes()
    settings.ray_token_path.unlink()
    settings.api_key_path.unlink()
    bootstrap(settings)
    assert settings.ray_token_path.is_file()
    assert settings.keyring_path.read_bytes() == ring
    with Catalog.open(settings.catalog_url) as catalog:
        assert KeyChecker(catalog.keys.list()).check(None, settings.api_key_path.read_text().strip()).name == "admin"


def test_a_missing_key_ring_is_refused_when_the_store_holds_versions(settings: Settings) -> None:
    bootstrap(settings)
    publish_something(settings)
    settings.keyring_path.unlink()
    with pytest.raises(IntegrityError, match=r"no key ring at .*keyring\.json.*Put the key ring back"):
        bootstrap(settings)
    assert not settings.keyring_path.exists()


def test_a_key_ring_that_was_exchanged_is_refused_by_its_id(settings: Settings, tmp_path: Path) -> None:
    bootstrap(settings)
    publish_something(settings)
    right = KeyRing.open(settings.keyring_path).ring_id
    settings.keyring_path.unlink()
    wrong = KeyRing.create(settings.keyring_path).ring_id
    with pytest.raises(IntegrityError) as caught:
        bootstrap(settings)
    assert right in caught.value.message and wrong in caught.value.message
    assert "key ring" in caught.value.message


def test_a_store_that_was_exchanged_is_refused(settings: Settings, tmp_path: Path) -> None:
    bootstrap(settings)
    elsewhere = settings.model_copy(update={"store": str(tmp_path / "another-store")})
    with pytest.raises(IntegrityError, match="another store"):
        bootstrap(elsewhere)


def test_a_key_ring_that_others_can_read_is_refused_with_the_command(settings: Settings) -> None:
    bootstrap(settings)
    settings.keyring_path.chmod(0o640)
    with pytest.raises(Exception, match="chmod 600"):
        bootstrap(settings)


def test_a_home_that_cannot_be_made_is_unavailable_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UnavailableError, match="LIGHTMILL_HOME"):
            bootstrap(Settings(home=home))


def test_a_home_that_is_read_only_is_unavailable(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        print("skipping: root writes where it may not")
        pytest.skip("root writes where it may not")
    tmp_path.chmod(0o500)
    with pytest.raises(UnavailableError, match="LIGHTMILL_HOME"):
        bootstrap(Settings(home=tmp_path / "home"))


def test_a_platform_that_was_never_prepared_is_not_found(settings: Settings) -> None:
    with pytest.raises(NotFoundError):
        open_platform(settings)


def test_a_secret_is_written_whole_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    previous = os.umask(0)
    try:
        write_secret(path, "one")
        assert path.read_text() == "one\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        write_secret(path, "two")
    finally:
        os.umask(previous)
    assert path.read_text() == "two\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "child").touch()
    with pytest.raises(UnavailableError, match="taken"):
        write_secret(tmp_path / "taken", "x")
    with pytest.raises(UnavailableError, match="cannot be written"):
        write_secret(tmp_path / "nowhere" / "secret", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
