"""Does the store still hold what the catalog remembers of it?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from lightmill.errors import NotFoundError
from lightmill.records.care import Finding, Problem
from lightmill.registry import names
from lightmill.registry.care.parallel import THREADS, each
from lightmill.storage import BlobStore

Watermarks = Mapping[tuple[str, str], tuple[int, str]]
"""The catalog's high-water marks: asset id and stream ("v", "a/<alias>", "k", "t/<seq>") to number and digest."""


def rolled_back(store: BlobStore, marks: Watermarks, *, threads: int = THREADS) -> list[Finding]:
    """Return the newest entries that were seen before and are gone or others now.

    Raises:
        UnavailableError: The store does not answer.
    """

    def look(key: tuple[str, str]) -> Finding | None:
        (mid, stream), (number, digest) = key, marks[key]
        part = "t" if stream.startswith("t/") else stream
        name = f"{names.RECORDS}{mid}/{part}/{number:010d}"
        what = (f"{mid}@{stream[2:] if stream.startswith('a/') else number}",)
        try:
            found = hashlib.sha256(store.get(name)).hexdigest()
        except NotFoundError:
            detail = "the catalog has seen it: the store was rolled back, or the object deleted"
            return Finding(problem=Problem.MISSING, object=name, versions=what, detail=detail)
        if found == digest:
            return None
        detail = "the catalog has seen another: the history was rewritten, or the object is damaged"
        return Finding(problem=Problem.DAMAGED, object=name, versions=what, detail=detail)

    return [finding for finding in each(look, sorted(marks), threads) if finding]
