"""The catalog's index of the store: kept after every write, healed where a crash came between the two."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.records.annotations import Annotation
from lightmill.records.assets import AliasEntry, Deletion, Manifest, Tombstone, VersionSummary
from lightmill.records.references import AssetKind, VersionId
from lightmill.registry.annotating import Annotations
from lightmill.registry.deletion import Deletions, tombstone_stream
from lightmill.registry.manifests import Manifests
from lightmill.registry.marks import ANNOTATIONS, VERSIONS, Mark, alias_stream
from lightmill.registry.signed import Census, SignedLog
from lightmill.registry.summary import summarize

if TYPE_CHECKING:  # workers and replicas use no catalog and need not load it
    from lightmill.catalog import Catalog

logger = logging.getLogger("lightmill.registry")


class Index:
    """Writes what the store says into the catalog, and raises the marks."""

    def __init__(
        self,
        catalog: Catalog,
        workspace: str,
        log: SignedLog,
        manifests: Manifests,
        deletions: Deletions,
        annotations: Annotations,
    ) -> None:
        self._catalog = catalog
        self._workspace = workspace
        self._log = log
        self._manifests = manifests
        self._deletions = deletions
        self._annotations = annotations

    # -- one entry ----------------------------------------------------------

    def version(self, id: VersionId, mid: str, manifest: Manifest) -> None:
        """List a version."""
        self._catalog.versions.record(summarize(id, mid, manifest), self._workspace)
        self._catalog.marks.raise_to(mid, VERSIONS, id.seq, id.digest)

    def alias(self, kind: AssetKind, name: str, entry: AliasEntry, digest: str) -> None:
        """List a move of an alias."""
        self._catalog.versions.set_alias(kind, name, entry.alias, entry.seq, entry.n)
        self._catalog.marks.raise_to(entry.mid, alias_stream(entry.alias), entry.n, digest)

    def deleted(self, id: VersionId, tombstone: Tombstone, digest: str) -> None:
        """List a version as deleted; nothing of it is kept but what its signed records say."""
        record, _ = self._log.commit(tombstone.mid, id.seq, what=str(id), expect=id.digest)
        said = Deletion(at=tombstone.created, reason=tombstone.reason, publisher=tombstone.publisher)
        stub = VersionSummary(
            id=id,
            mid=tombstone.mid,
            created=record.created,
            size_bytes=sum(blob.size for blob in record.blobs),
            deleted=said,
        )
        self._catalog.versions.record_deleted(stub, self._workspace)
        self._catalog.marks.raise_to(tombstone.mid, VERSIONS, id.seq, id.digest)
        self._catalog.marks.raise_to(tombstone.mid, tombstone_stream(id.seq), id.seq, digest)

    def catch_up(self, mid: str, name: str) -> int:
        """Apply the annotations that the catalog lacks, in order; return how many.

        At one that does not verify it stops, with a line in the log, until it is repaired.
        """
        mark = self._catalog.marks.get(mid, ANNOTATIONS)
        known = self._catalog.versions.recorded(mid)
        healed = 0
        try:
            for entry, digest in self._annotations.entries(mid, mark[0] + 1 if mark else 1, name):
                healed += self._apply(entry, digest, name, known)
        except (IntegrityError, NotFoundError) as exc:
            logger.error("what is said of %s is not complete in the catalog: %s", name, exc.message)
        return healed

    def _apply(self, entry: Annotation, digest: str, name: str, known: dict[int, bool]) -> bool:
        mid, seq, what = entry.mid, entry.seq, f"{name}@{entry.seq}"
        record, _ = self._log.commit(mid, seq, what=what, expect=entry.record)
        if self._deletions.find(mid, seq, what):
            return self._catalog.notes.apply(mid, seq, entry.n, digest, None)
        if seq not in known:
            self._adopt(mid, seq)
        change = self._annotations.unseal(entry, self._manifests.key(mid, seq, record.manifest))
        return self._catalog.notes.apply(mid, seq, entry.n, digest, change)

    # -- everything ---------------------------------------------------------

    def heal(self) -> int:
        """Record what the store holds and the catalog lacks; return how many entries. See `Registry.heal`."""
        # First the catalog, then the store: what is written between the two is found next time.
        marks, known = self._catalog.marks.all(), self._catalog.versions.known()
        census = self._log.census()
        return sum(self._asset(mid, found, known.get(mid, {}), marks) for mid, found in census.items())

    def _asset(self, mid: str, census: Census, known: dict[int, bool], marks: dict[tuple[str, str], Mark]) -> int:
        missing = census.versions - known.keys()
        healed = self._each(mid, missing - census.tombstones, self._adopt)
        gone = {seq for seq in census.tombstones if not known.get(seq, False)}
        healed += self._each(mid, gone, self._bury)
        behind = {alias for alias, n in census.aliases.items() if _number(marks, mid, alias_stream(alias)) < n}
        unsaid = census.annotations > _number(marks, mid, ANNOTATIONS)
        asset = self._catalog.versions.named(mid) if behind or unsaid else None
        if asset is None:
            return healed
        healed += sum(self._alias(mid, *asset, alias, census.aliases[alias]) for alias in sorted(behind))
        return healed + (self.catch_up(mid, asset[1]) if unsaid else 0)

    def _each(self, mid: str, seqs: Iterable[int], adopt: Callable[[str, int], None]) -> int:
        healed = 0
        for seq in sorted(seqs):
            try:
                adopt(mid, seq)
            except (IntegrityError, NotFoundError) as exc:
                logger.error("%s@%d stays out of the catalog: %s", mid, seq, exc.message)
            else:
                healed += 1
        return healed

    def _adopt(self, mid: str, seq: int) -> None:
        id, manifest = self._manifests.adopt(mid, seq)
        self.version(id, mid, manifest)

    def _bury(self, mid: str, seq: int) -> None:
        """List a deleted version; its bytes may be collected, then another version must tell the asset's name."""
        tombstone, digest = self._log.tombstone(mid, seq, what=f"{mid}@{seq}")
        asset = self._catalog.versions.named(mid)
        if asset is None:
            id, _ = self._manifests.adopt(mid, seq)
        else:
            id = VersionId(kind=asset[0], name=asset[1], seq=seq, digest=tombstone.record)
        self.deleted(id, tombstone, digest)

    def _alias(self, mid: str, kind: AssetKind, name: str, alias: str, n: int) -> int:
        try:
            self.alias(kind, name, *self._log.alias(mid, alias, n, what=f"{name}@{alias}"))
        except (IntegrityError, NotFoundError) as exc:
            logger.error("alias %s@%s stays out of the catalog: %s", name, alias, exc.message)
            return 0
        return 1


def _number(marks: dict[tuple[str, str], Mark], mid: str, stream: str) -> int:
    return marks.get((mid, stream), (0, ""))[0]
