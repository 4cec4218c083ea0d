"""Opening a registry by reference: what travels to other processes is where things are, never a secret."""

from __future__ import annotations

import secrets
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from lightmill.errors import ConflictError, IntegrityError, NotFoundError
from lightmill.records.base import Record
from lightmill.registry.cache import CachingStore
from lightmill.registry.names import STORE_FILE
from lightmill.registry.registry import Registry
from lightmill.storage import BlobStore, open_store
from lightmill.vault import KeyRing, canonical_json, parse_json

if TYPE_CHECKING:  # workers and replicas use no catalog and need not load it
    from lightmill.catalog import Catalog

STORE_FORMAT = "lightmill-store"
READER_VERSION = 1
STORE_FILE_MAX_BYTES = 1 << 16


class RegistryLocation(Record):
    """Where a registry and its key ring are. Each process opens them itself.

    `cache_bytes` is the limit of the node's cache of sealed blobs below `cache_path`; 0 means none.
    """

    store_url: str
    keyring_path: str
    workspace: str
    cache_path: str = ""
    cache_bytes: int = 0

    def open(self, catalog: Catalog | None = None) -> Registry:
        """Open the registry in this process; without a catalog, opened once and kept.

        Raises:
            NotFoundError: There is no store or no key ring; `lightmill up` makes both.
            IntegrityError: The store is of a newer format, or the key ring is damaged.
        """
        if catalog is None:
            return _open_once(self)  # pyright: ignore[reportArgumentType] - a frozen record hashes
        return _open(self, catalog)


@lru_cache(maxsize=8)
def _open_once(location: RegistryLocation) -> Registry:
    return _open(location, None)


def _open(location: RegistryLocation, catalog: Catalog | None) -> Registry:
    store = open_store(location.store_url)
    if location.cache_bytes:
        store = CachingStore(store, location.cache_path, location.cache_bytes)
    keyring = KeyRing.open(Path(location.keyring_path))
    return Registry(store, keyring, location.workspace, read_store_id(store), catalog)


def read_store_id(store: BlobStore) -> str:
    """Return the id of a store.

    Raises:
        NotFoundError: It is no Lightmill store yet.
        IntegrityError: Its format is newer than this version reads, or its file is damaged.
    """
    try:
        found = parse_json(store.get(STORE_FILE), STORE_FILE_MAX_BYTES, name=STORE_FILE)
    except NotFoundError as exc:
        raise NotFoundError(f"{store.url} is no Lightmill store; `lightmill up` makes it one.") from exc
    if found.get("format") != STORE_FORMAT or not isinstance(found.get("store"), str):
        raise IntegrityError(f"{STORE_FILE} at {store.url} is not what Lightmill wrote; restore it from a backup.")
    if not isinstance(found.get("minimum_reader"), int) or found["minimum_reader"] > READER_VERSION:
        raise IntegrityError(
            f"The store at {store.url} needs reader version {found.get('minimum_reader')}; this is version "
            f"{READER_VERSION}. Install a newer Lightmill."
        )
    return found["store"]


def initialize_store(store: BlobStore) -> str:
    """Make an empty store a Lightmill store, or find that it is one; return its id.

    Raises:
        UnavailableError: The store cannot be written, or cannot create a name atomically.
    """
    try:
        return read_store_id(store)
    except NotFoundError:
        store.probe()
    record = {"format": STORE_FORMAT, "store": secrets.token_hex(16), "minimum_reader": READER_VERSION}
    with suppress(ConflictError):  # another process made it at the same moment: its id counts
        store.create(STORE_FILE, canonical_json(record))
    return read_store_id(store)
