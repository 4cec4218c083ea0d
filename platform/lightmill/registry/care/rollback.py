"""Does the store still hold what the catalog remembers of it?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from lightmill.errors import NotFoundError
from lightmill.records.care import Finding, Problem
from lightmill.registry import names
from lightmill.registry.care.parallel import THREADS, each
from lightmill.storage import BlobStore

Watermark = tuple[str, str, int, str]
"""A high-water mark of the catalog: asset id, stream ("v" or "a/<alias>"), number, digest of the entry."""


def rolled_back(store: BlobStore, marks: Iterable[Watermark], *, threads: int = THREADS) -> list[Finding]:
    """Return the newest entries that were seen before and are gone or others now.

    Raises:
        UnavailableError: The store does not answer.
    """

    def look(mark: Watermark) -> Finding | None:
        mid, stream, number, digest = mark
        alias = stream.removeprefix("a/")
        name = names.record_name(mid, number) if stream == "v" else names.alias_name(mid, alias, number)
        what = f"{mid}@{number if stream == 'v' else alias}"
        try:
            found = hashlib.sha256(store.get(name)).hexdigest()
        except NotFoundError:
            detail = "the catalog has seen it: the store was rolled back, or the object deleted"
            return Finding(problem=Problem.MISSING, object=name, versions=(what,), detail=detail)
        if found == digest:
            return None
        detail = "the catalog has seen another: the history was rewritten, or the object is damaged"
        return Finding(problem=Problem.DAMAGED, object=name, versions=(what,), detail=detail)

    return [finding for finding in each(look, marks, threads) if finding]
