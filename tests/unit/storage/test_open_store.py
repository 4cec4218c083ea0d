from __future__ import annotations

from pathlib import Path

import pytest

from lightmill.errors import RequestError
from lightmill.storage import LocalStore, MemoryStore, open_store


def test_a_path_and_its_url_open_the_same_store(tmp_path: Path) -> None:
    root = tmp_path / "a store with spaces"
    store = open_store(root)
    store.create("a", b"x")
    assert store.url == root.as_uri()
    for address in (str(root), store.url, store.url.replace("file://", "file://localhost")):
        again = open_store(address)
        assert isinstance(again, LocalStore) and again.get("a") == b"x" and again.url == store.url


def test_opening_makes_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    assert list(store.list("")) == [] and not (tmp_path / "store").exists()


def test_a_relative_path_and_a_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("store").url == open_store("~/store").url == (tmp_path / "store").as_uri()


def test_memory_is_new_each_time() -> None:
    store = open_store("memory://")
    store.create("a", b"x")
    assert isinstance(store, MemoryStore) and store.url == "memory://"
    assert list(open_store("memory://").list("")) == []


@pytest.mark.parametrize(
    "address", ["", "s4://bucket/x", "http://x/y", "file://host/a", "file://", "file:///a?b", "memory://x"]
)
def test_other_addresses_name_what_is_supported(address: str) -> None:
    with pytest.raises(RequestError, match="path"):
        open_store(address)
