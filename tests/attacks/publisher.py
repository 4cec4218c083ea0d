"""A publisher in a process of its own, that can be killed: it says what it was told was published."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

from lightmill.registry import Registry, read_store_id
from lightmill.registry.care import backup
from lightmill.storage import LocalStore
from lightmill.vault import KeyRing
from tests.attacks.stage import files, publish

NAME = "killed"


def open_registry(root: Path, keys: Path, *, fsync: bool = True) -> Registry:
    store = LocalStore(root) if fsync else LocalStore(root, fsync=lambda _: None)
    return Registry(store, KeyRing.open(keys), "default", read_store_id(store))


def publish_for_ever(root: Path, keys: Path, first: int, said: Connection) -> None:
    """Publish one version after the other; send (number, digest) after each."""
    registry = open_registry(root, keys)
    said.send(None)
    number = first
    while True:
        said.send((number, publish(registry, NAME, files(number, 4096))))
        number += 1


def publish_rounds(root: Path, keys: Path, first: int, rounds: int, said: Connection) -> None:
    """Publish some versions; send all digests at the end."""
    registry = open_registry(root, keys, fsync=False)
    said.send([publish(registry, NAME, files(first + n)) for n in range(rounds)])


def copy_away(root: Path, keys: Path, target: Path, said: Connection) -> None:
    """Back the store up; say when it begins."""
    source = open_registry(root, keys)
    said.send(None)
    backup(source.store, LocalStore(target), source.keyring.trusted, threads=2)
