"""Restore: a site from a backup. Store first, then the catalog, then a check of all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lightmill.records.care import RestoreReport
from lightmill.records.jobs import Progress
from lightmill.registry.care.backup import backup
from lightmill.registry.care.check import Options, check
from lightmill.registry.care.parallel import THREADS
from lightmill.registry.care.rebuild import rebuild
from lightmill.registry.opening import read_store_id
from lightmill.registry.registry import Registry
from lightmill.registry.signed import SignedLog
from lightmill.storage import BlobStore
from lightmill.vault import KeyRing

if TYPE_CHECKING:
    from lightmill.catalog import Catalog


def restore(
    source: BlobStore,
    target: BlobStore,
    keyring: KeyRing,
    workspace: str,
    catalog: Catalog,
    *,
    threads: int = THREADS,
    report: Callable[[Progress], None] = lambda _: None,
) -> RestoreReport:
    """Bring a site back from a backup: every version with the digest that it had.

    The key ring comes first, from its own backup. A site that holds the same store keeps what it has, and only
    gaps are filled; its catalog, when it was kept, tells whether something newer than the backup is lost.

    Raises:
        ConflictError: The target holds something else than this store.
        IntegrityError: The key ring is not the store's, or the histories of backup and site differ; nothing was
            written.
        NotFoundError: There is no backup at the source.
        UnavailableError: A store or the catalog does not answer, or is full; run it again.
    """
    store_id = read_store_id(source)
    SignedLog(source, keyring, workspace, store_id).check_ring()
    copied = backup(source, target, keyring.trusted, filling=True, threads=threads, report=report)
    report(Progress(phase="catalog", unit="versions"))
    catalog.migrate()
    remembered = catalog.marks.all()
    rebuilt = rebuild(Registry(target, keyring, workspace, store_id, catalog), catalog, filling=True)
    options = Options(keyring=keyring, marks=remembered, threads=threads, report=report)
    return RestoreReport(copy_report=copied, rebuilt=rebuilt, check=check(target, keyring.trusted, options))
