"""What a new deployment needs before anything runs: key ring, store, catalog, keys. Safe to repeat."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from lightmill.access import mint_key, parse_key
from lightmill.catalog import Catalog
from lightmill.errors import ConflictError, IntegrityError, NotFoundError, UnavailableError
from lightmill.registry import initialize_store
from lightmill.registry.names import RECORDS
from lightmill.settings import Settings
from lightmill.storage import BlobStore, open_store
from lightmill.vault import KeyRing

STORE_FACT = "store"
RING_FACT = "key ring"


def bootstrap(settings: Settings) -> None:
    """Make what is missing, change nothing that is there.

    Raises:
        UnavailableError: A folder, the store or the catalog cannot be written.
        IntegrityError: The store holds versions but the key ring is missing or another one, or the catalog
            belongs to another store.
    """
    _make_folders(settings)
    store = open_store(settings.store_url)
    ring = _key_ring(settings, store)
    store_id = initialize_store(store)
    with Catalog.open(settings.catalog_url) as catalog:
        catalog.migrate()
        _same(catalog, STORE_FACT, store_id, f"the store at {settings.store_url}")
        _same(catalog, RING_FACT, ring.ring_id, f"the key ring at {settings.keyring_path}")
        if not _known_key(settings.api_key_path, catalog):
            text, key = mint_key("admin")
            write_secret(settings.api_key_path, text)  # a key that no catalog knows is minted anew
            catalog.keys.add(key)
    if not settings.ray_token_path.is_file():
        write_secret(settings.ray_token_path, secrets.token_hex(32))


def _known_key(path: Path, catalog: Catalog) -> bool:
    """Whether the key file holds a key of this catalog; with a new catalog it does not."""
    try:
        parsed = parse_key(path.read_text().strip())
    except (OSError, UnicodeDecodeError):
        return False
    return parsed is not None and catalog.keys.by_id(parsed[0]) is not None


def _make_folders(settings: Settings) -> None:
    try:
        for folder in (settings.home, settings.keyring_path.parent, settings.jobs_path, settings.runs_path):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise UnavailableError(
            f"{exc.filename} cannot be made: {exc.strerror}. Set LIGHTMILL_HOME to a folder that can be written."
        ) from exc


def _key_ring(settings: Settings, store: BlobStore) -> KeyRing:
    try:
        return KeyRing.open(settings.keyring_path)
    except NotFoundError:
        if next(iter(store.list(RECORDS)), None) is not None:
            raise IntegrityError(
                f"The store at {settings.store_url} holds versions, but there is no key ring at "
                f"{settings.keyring_path}. Put the key ring back; a new one could not read them."
            ) from None
    try:
        return KeyRing.create(settings.keyring_path)
    except ConflictError:
        return KeyRing.open(settings.keyring_path)


def _same(catalog: Catalog, fact: str, value: str, what: str) -> None:
    known = catalog.facts.set_once(fact, value)
    if known != value:
        raise IntegrityError(
            f"The catalog belongs to another {fact} (id {known}) than {what} (id {value}). Put the right one back, "
            "or set LIGHTMILL_HOME, LIGHTMILL_STORE and LIGHTMILL_CATALOG to things that belong together."
        )


def write_secret(path: Path, text: str) -> None:
    """Write a secret to a new file that only its owner can read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise UnavailableError(f"{path} cannot be written: {exc.strerror}.") from exc
