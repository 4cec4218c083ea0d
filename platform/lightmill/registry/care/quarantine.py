"""Quarantine: where a collected object waits for a week, under its own name below `q/`."""

from __future__ import annotations

from contextlib import suppress

from lightmill.errors import ConflictError, NotFoundError
from lightmill.registry.care.digests import is_whole
from lightmill.registry.names import quarantine_name
from lightmill.storage import BlobStore


def to_quarantine(store: BlobStore, name: str) -> int:
    """Copy an object to quarantine, durably, and return its size; 0 when it is gone already.

    Raises:
        UnavailableError: The store does not answer or is full.
    """
    kept = quarantine_name(name)
    try:
        data = store.get(name)
    except NotFoundError:
        return 0
    try:
        store.create(kept, data)
    except ConflictError:
        if store.get(kept) != data:  # an earlier copy was damaged
            store.delete(kept)
            store.create(kept, data)
    return len(data)


def from_quarantine(store: BlobStore, name: str) -> bool:
    """Put a collected object back where it was; return whether it is there now, whole by its digest.

    Raises:
        UnavailableError: The store does not answer.
    """
    try:
        data = store.get(quarantine_name(name))
    except NotFoundError:
        return False
    if not is_whole(name, data):
        return False
    with suppress(ConflictError):
        store.create(name, data)
    return True
