"""The care of this deployment's store; see lightmill.registry.care. Works while the platform is down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from lightmill.catalog import Catalog
from lightmill.errors import IntegrityError, NotFoundError, RequestError, UnavailableError
from lightmill.records.base import Record
from lightmill.records.care import BackupReport, CheckReport, CollectReport, RebuildReport, RepairReport, RestoreReport
from lightmill.registry import Registry, care, read_store_id
from lightmill.settings import Settings
from lightmill.storage import BlobStore, open_store
from lightmill.vault import KeyRing
from lightmill.wiring.operations import OperationContext


class CheckOptions(Record):
    """`deep` opens versions with the key ring; `sample` is the percentage of objects to read."""

    deep: bool = False
    sample: float = Field(default=100.0, gt=0, le=100)
    seed: int = 0


class CollectOptions(Record):
    """Without `apply` nothing is written."""

    apply: bool = False


class RepairOptions(Record):
    """`sources` are the URLs of replicas or backups of this store."""

    sources: tuple[str, ...] = ()


class RebuildOptions(Record):
    """Rebuilding takes no options."""


class BackupOptions(Record):
    """`target` is the URL of the copy; `verify_all` reads all of it, not only what is new."""

    target: str
    verify_all: bool = False


class RestoreOptions(Record):
    """`source` is the URL of the backup."""

    source: str


def check(context: OperationContext, options: CheckOptions) -> CheckReport:
    """Find what is missing, damaged or left over; see `care.check` for the errors."""
    store, ring = _store(context.settings), KeyRing.open(context.settings.keyring_path)
    with _catalog(context.settings) as catalog:
        marks = catalog.marks.all() if catalog else None
    found = care.CheckOptions(
        keyring=ring if options.deep else None,
        marks=marks,
        sample=options.sample,
        seed=options.seed,
        report=context.report,
    )
    return care.check(store, ring.trusted, found)


def collect(context: OperationContext, options: CollectOptions) -> CollectReport:
    """Run one cycle of collection; see `care.Collector` for the errors.

    Raises:
        UnavailableError: The catalog, which says what endpoints serve, does not answer.
        IntegrityError: The store was rolled back, by the catalog's marks.
    """
    settings = context.settings
    store, ring = _store(settings), KeyRing.open(settings.keyring_path)
    with Catalog.open(settings.catalog_url) as catalog:
        gone = care.rolled_back(store, catalog.marks.all())
        pinned = frozenset(e.version.digest for e in catalog.endpoints.list() if e.version)
    if gone:
        raise IntegrityError(
            f"{store.url} does not hold what the catalog has seen ({gone[0].object}: {gone[0].detail}). Nothing was "
            "collected; repair it with `lightmill registry repair --from BACKUP`."
        )
    return care.Collector(store, ring.trusted, pinned=pinned, report=context.report).collect(apply=options.apply)


def repair(context: OperationContext, options: RepairOptions) -> RepairReport:
    """Put back what can be, and heal the catalog; see `care.repair` for the errors."""
    settings = context.settings
    store, ring = open_store(settings.store_url), KeyRing.open(settings.keyring_path)
    with _catalog(settings) as catalog:
        marks = catalog.marks.all() if catalog else None
        found = care.repair(store, ring, _sources(options.sources), marks=marks, report=context.report)
        if catalog is None:
            return found
        healed = Registry(store, ring, settings.workspace, read_store_id(store), catalog).heal()
    return found.model_copy(update={"healed": healed, "catalog": True})


def rebuild(context: OperationContext, options: RebuildOptions) -> RebuildReport:
    """Fill an empty catalog from the store; see `care.rebuild` for the errors."""
    settings = context.settings
    store, ring = _store(settings), KeyRing.open(settings.keyring_path)
    with Catalog.open(settings.catalog_url) as catalog:
        catalog.migrate()
        return care.rebuild(Registry(store, ring, settings.workspace, read_store_id(store), catalog), catalog)


def backup(context: OperationContext, options: BackupOptions) -> BackupReport:
    """Copy to another store what it lacks; see `care.backup` for the errors.

    Raises:
        RequestError: The target is the store itself.
    """
    ring = KeyRing.open(context.settings.keyring_path)
    source, target = _store(context.settings), open_store(options.target)
    if source.url == target.url:
        raise RequestError(f"{source.url} is the store itself; name another place for its copy.")
    return care.backup(
        source,
        target,
        ring.trusted,
        verify_all=options.verify_all,
        report=context.report,
    )


def restore(context: OperationContext, options: RestoreOptions) -> RestoreReport:
    """Bring this site back from a backup; see `care.restore` for the errors."""
    settings = context.settings
    try:
        ring = KeyRing.open(settings.keyring_path)
    except NotFoundError as exc:
        raise NotFoundError(
            f"There is no key ring at {settings.keyring_path}. Put it back from its own backup first: the store's "
            "backup holds no keys that open it."
        ) from exc
    _make_folder(settings.home)
    with Catalog.open(settings.catalog_url) as catalog:
        return care.restore(
            _sources((options.source,))[0],
            open_store(settings.store_url),
            ring,
            settings.workspace,
            catalog,
            report=context.report,
        )


def _store(settings: Settings) -> BlobStore:
    """Open this deployment's store.

    Raises:
        NotFoundError: There is none.
    """
    store = open_store(settings.store_url)
    read_store_id(store)
    return store


def _sources(urls: tuple[str, ...]) -> list[BlobStore]:
    stores = [open_store(url) for url in urls]
    for store in stores:
        read_store_id(store)
    return stores


@contextmanager
def _catalog(settings: Settings) -> Iterator[Catalog | None]:
    """Open the catalog if it answers: a store can be checked without."""
    with Catalog.open(settings.catalog_url) as catalog:
        try:
            catalog.marks.all()
        except UnavailableError:
            yield None
        else:
            yield catalog


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise UnavailableError(f"{path} cannot be made: {exc.strerror}.") from exc
