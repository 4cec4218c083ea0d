"""What a publisher owes to the collector when it names blobs that an earlier version wrote."""

from __future__ import annotations

from collections.abc import Iterable

from lightmill.errors import NotFoundError
from lightmill.registry.care.parallel import THREADS, each
from lightmill.registry.care.quarantine import from_quarantine
from lightmill.registry.names import blob_name
from lightmill.storage import BlobStore


def verify_reused(store: BlobStore, ids: Iterable[str], *, threads: int = THREADS) -> list[str]:
    """Put reused blobs back that were collected, and return those, by id, that are gone for good.

    A publisher that reuses blobs calls this after its commit and before its lease is released. Its lease
    was taken before it looked at the version that it reuses from, so from then on a collector leaves those
    blobs alone; what vanished did so before, and lies in quarantine for a week.

    Raises:
        UnavailableError: The store does not answer; a retry is allowed.
    """

    def missing(id: str) -> str | None:
        try:
            store.head(blob_name(id))
        except NotFoundError:
            return None if from_quarantine(store, blob_name(id)) else id
        return None

    return [id for id in each(missing, sorted(set(ids)), threads) if id]
