"""High-water marks: what the store showed before, it must show again; otherwise it was rolled back.

The streams of an asset are `v` (versions), `a/<alias>` (moves of an alias), `t/<seq>` (one tombstone) and `k`
(annotations). Without a catalog there are no marks, and nothing is noticed that the store itself hides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.registry import names
from lightmill.storage import BlobStore

if TYPE_CHECKING:  # workers and replicas use no catalog and need not load it
    from lightmill.catalog import Catalog

VERSIONS = "v"
ANNOTATIONS = "k"
TOMBSTONES = "t/"
Mark = tuple[int, str]


def alias_stream(alias: str) -> str:
    """Return the stream of an alias's moves."""
    return f"a/{alias}"


class Marks:
    """Compares what a store shows with what was seen before."""

    def __init__(self, store: BlobStore, catalog: Catalog | None) -> None:
        self._store = store
        self._catalog = catalog

    def seen(self, mid: str, stream: str) -> Mark | None:
        """Return the highest entry ever seen; read it before the store, which others append to meanwhile."""
        return self._catalog.marks.get(mid, stream) if self._catalog else None

    def raise_to(self, mid: str, stream: str, number: int, digest: str) -> None:
        """Remember an entry; IntegrityError if another was seen under its number."""
        if self._catalog:
            self._catalog.marks.raise_to(mid, stream, number, digest)

    def check(self, mark: Mark | None, mid: str, found: int, what: str, name_of: Callable[[str, int], str]) -> int:
        """Compare what the store lists to the highest entry ever seen, by number and by digest.

        Returns:
            The number of the last entry: `found`, or that of the mark where the listing lags behind the objects.

        Raises:
            IntegrityError: The store ends earlier, or holds another entry there.
        """
        if mark is None:
            return found
        try:
            digest = hashlib.sha256(self._store.get(name_of(mid, mark[0]))).hexdigest()
        except NotFoundError as exc:
            raise IntegrityError(
                f"The store at {self._store.url} ends at entry {found} of {what}, but {mark[0]} was seen before: "
                "the store was rolled back or an object deleted. Restore it from a backup."
            ) from exc
        if digest != mark[1]:
            raise IntegrityError(
                f"Entry {mark[0]} of {what} on {self._store.url} is another than was seen before: its history was "
                "rewritten. Restore it from a backup."
            )
        return max(found, mark[0])

    def tombstones(self, mid: str) -> set[int]:
        """Return the versions of an asset whose tombstones were seen."""
        return {seq for seq, _ in self._catalog.marks.below(mid, TOMBSTONES).values()} if self._catalog else set()

    def check_tombstones(self, mid: str, digests: dict[int, str]) -> None:
        """Compare an asset's tombstones (version to digest) with all that were seen.

        Raises:
            IntegrityError: One is gone or was replaced: a deleted version would come back.
        """
        seen = self._catalog.marks.below(mid, TOMBSTONES) if self._catalog else {}
        for seq, digest in sorted(seen.values()):
            if digests.get(seq) != digest:
                raise IntegrityError(
                    f"Object {names.tombstone_name(mid, seq)} on {self._store.url} is missing or another than was "
                    "seen before: the store was rolled back. Restore it from a backup."
                )
