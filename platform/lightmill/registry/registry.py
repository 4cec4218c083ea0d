"""The registry: immutable versions and movable aliases over an encrypted object store.

Write order: blobs, manifest, envelope, commit record, alias entry; read in reverse. Store first, catalog
second; `heal` closes the gap that a crash between the two leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightmill.errors import ConflictError, NotFoundError
from lightmill.records.annotations import Annotation, Change, Notes, check_change
from lightmill.records.assets import AliasEntry, AliasMove, Tombstone, VersionSummary
from lightmill.records.references import (
    LATEST,
    AssetKind,
    Reference,
    VersionId,
    check_alias,
    check_name,
    parse_reference,
)
from lightmill.registry import draft as drafts
from lightmill.registry import names
from lightmill.registry.aliases import Aliases, former_target
from lightmill.registry.annotating import Annotations
from lightmill.registry.deletion import Deletions
from lightmill.registry.healing import Index
from lightmill.registry.manifests import Manifests
from lightmill.registry.marks import VERSIONS, Marks
from lightmill.registry.publishing import Content, Publisher
from lightmill.registry.signed import SignedLog
from lightmill.registry.summary import summarize
from lightmill.registry.version import OpenVersion
from lightmill.storage import BlobStore
from lightmill.vault import BlobContext, KeyRing

if TYPE_CHECKING:  # workers and replicas use no catalog and need not load it; torch loads with the tensors
    import torch

    from lightmill.catalog import Catalog
    from lightmill.registry.workers import Progress


class Registry:
    """Versions and aliases of one workspace on one store.

    With a catalog it also keeps the index and the high-water marks, which reveal a store that was rolled
    back. Without one (in training workers and replicas) it reads and publishes by the store alone.
    """

    def __init__(
        self,
        store: BlobStore,
        keyring: KeyRing,
        workspace: str,
        store_id: str,
        catalog: Catalog | None = None,
    ) -> None:
        self.store = store
        self.keyring = keyring
        self.workspace = workspace
        self.store_id = store_id
        self.catalog = catalog
        self._log = log = SignedLog(store, keyring, workspace, store_id)
        self._marks = marks = Marks(store, catalog)
        self._manifests = Manifests(store, keyring, workspace, store_id, log)
        self._publisher = Publisher(store, keyring, workspace, store_id, log, self._manifests)
        self._aliases = Aliases(store, keyring, workspace, store_id, log, marks)
        self._deletions = Deletions(keyring, workspace, store_id, log, marks)
        self._annotations = Annotations(keyring, workspace, store_id, log, marks)
        self._index = (
            Index(catalog, workspace, log, self._manifests, self._deletions, self._annotations) if catalog else None
        )

    # -- names --------------------------------------------------------------

    def mid(self, kind: AssetKind, name: str) -> str:
        """Return the opaque id under which an asset's records lie on the store."""
        return self.keyring.asset_id(self.workspace, kind, check_name(name, kind))

    def latest(self, kind: AssetKind, name: str) -> int:
        """Return the highest version number ever given, deleted ones included; 0 when there is none.

        Raises:
            IntegrityError: The store holds fewer versions than the catalog remembers: it was rolled back.
        """
        mid = self.mid(kind, name)
        mark = self._marks.seen(mid, VERSIONS)
        found = self._log.last(names.records_prefix(mid))
        found = self._marks.check(mark, mid, found, f"{kind} {name}", names.record_name)
        if not found:
            self._log.check_ring()
        return found

    def resolve(self, kind: AssetKind, reference: Reference) -> VersionId:
        """Return the version that a reference selects now; `latest` is the newest that is not deleted.

        Raises:
            NotFoundError: There is no such asset, version or alias, or it was deleted; the message lists what
                there is.
            IntegrityError: A record on the store is not what was written.
        """
        mid = self.mid(kind, reference.name)
        latest = self.latest(kind, reference.name)
        if not latest:
            raise NotFoundError(f"No {kind} {reference.name!r}. List what exists with `lightmill {kind}s list`.")
        if reference.selector == LATEST:
            seq, pinned = self._newest(mid, reference.name, latest), None
        elif reference.seq is not None:
            seq, pinned = reference.seq, None
        else:
            entry = self._aliases.entry(kind, reference.name, mid, reference.selector)
            seq, pinned = entry.seq, entry.record
        if not 1 <= seq <= latest:
            raise NotFoundError(f"No {kind} {reference}; it has versions 1 to {latest}.")
        _, digest = self._log.commit(mid, seq, expect=pinned, what=str(reference))
        id = VersionId(kind=kind, name=reference.name, seq=seq, digest=digest)
        if reference.selector != LATEST:
            self._deletions.refuse(id, mid)
        return id

    def _newest(self, mid: str, name: str, latest: int) -> int:
        for seq in range(latest, 0, -1):
            if self._deletions.find(mid, seq, f"{name}@{seq}") is None:
                return seq
        raise NotFoundError(f"All {latest} versions of {name!r} were deleted.")

    # -- reading ------------------------------------------------------------

    def open(self, id: VersionId) -> OpenVersion:
        """Verify a version and return it: signature, pinned digest, envelope, manifest.

        Raises:
            NotFoundError: There is no such version, or it was deleted.
            IntegrityError: Something stored is not what was written, or the key ring is another one.
        """
        mid = self.mid(id.kind, id.name)
        try:
            record, _ = self._log.commit(mid, id.seq, expect=id.digest, what=str(id))
        except NotFoundError:
            self._log.check_ring()
            raise
        self._deletions.refuse(id, mid)
        manifest, key = self._manifests.read(mid, id, record.manifest)
        return OpenVersion(id, manifest, key, self.store, BlobContext.for_data(self.store_id, self.workspace))

    def load(self, id: VersionId, into: torch.nn.Module, *, progress: Progress | None = None) -> OpenVersion:
        """Verify a version and fill a module with its tensors; see `tensors.load_into_module` for the errors."""
        from lightmill.registry.tensors import load_into_module

        version = self.open(id)
        load_into_module(version, into, progress=progress)
        return version

    # -- publishing ---------------------------------------------------------

    def begin(self, kind: AssetKind, name: str) -> drafts.Draft:
        """Start a version; its parts go through the draft, `commit` makes it visible."""
        check_name(name, kind)
        return drafts.begin(self.store, self.keyring, self.workspace, self.store_id, kind, name)

    def join(self, id: drafts.DraftId) -> drafts.Draft:
        """Open a draft that another process began; see `draft.join` for the errors."""
        return drafts.join(self.store, self.keyring, self.workspace, self.store_id, id)

    def commit(self, draft: drafts.Draft, content: Content, *, after: int | None = None) -> VersionSummary:
        """Make a draft visible as the next version, whole or not at all.

        A draft is published once: after a lost answer the call may be repeated and finds its own version. With `after`
        it becomes the version behind that number or none: what it adds to is the newest still.

        Raises:
            IntegrityError: The store was rolled back; nothing is written on top of it.
            ConflictError: Other publishers won the next number a hundred times in a row, or one did with `after`.
            UnavailableError: The store cannot be written.
        """
        kind, name, mid = draft.id.kind, draft.id.name, draft.id.mid
        id, manifest = self._publisher.publish(draft, content, lambda: self.latest(kind, name), after)
        if self._index:
            self._index.version(id, mid, manifest)
        return summarize(id, mid, manifest)

    # -- deleting -----------------------------------------------------------

    def delete(self, kind: AssetKind, name: str, seq: int, reason: str) -> Tombstone:
        """Delete a version for ever: a signed tombstone says so; its number is not used again.

        Endpoints are looked at only where there is a catalog.

        Raises:
            RequestError: There is no proper reason.
            NotFoundError: There is no such version, or it was deleted before.
            ConflictError: An alias or an endpoint uses it (the message names them), or somebody else deleted it.
            IntegrityError: Something stored is not what was written.
        """
        mid = self.mid(kind, name)
        id = self.resolve(kind, Reference(name=name, selector=str(seq)))
        users = [*self._aliases_of(id, mid), *self.endpoints_of(id)]
        if users:
            raise ConflictError(
                f"{kind.capitalize()} {id} is used by {', '.join(users)}; move or delete them first, then delete it."
            )
        tombstone, digest = self._deletions.write(id, mid, reason)
        if self._index:
            self._index.deleted(id, tombstone, digest)
        return tombstone

    def deleted(self, kind: AssetKind, name: str) -> set[int]:
        """Return the numbers of an asset's deleted versions; IntegrityError if a tombstone is not as it was."""
        return self._deletions.seqs(self.mid(kind, name))

    def _aliases_of(self, id: VersionId, mid: str) -> list[str]:
        return [f"alias {name!r}" for name, seq in self.aliases(id.kind, id.name).items() if seq == id.seq]

    def endpoints_of(self, id: VersionId) -> list[str]:
        """Return the endpoints that serve or follow a model version, each as `endpoint 'name'`; needs a catalog."""
        if self.catalog is None or id.kind is not AssetKind.MODEL:
            return []
        latest = self.resolve(id.kind, Reference(name=id.name))
        selectors = {str(id.seq), LATEST} if latest == id else {str(id.seq)}
        follows = [Reference(name=id.name, selector=selector) for selector in selectors]
        return [
            f"endpoint {endpoint.name!r}"
            for endpoint in self.catalog.endpoints.list()
            if endpoint.version == id
            or (endpoint.spec.model and not endpoint.deleted and parse_reference(endpoint.spec.model) in follows)
        ]

    # -- aliases ------------------------------------------------------------

    def set_alias(self, kind: AssetKind, name: str, alias: str, seq: int, *, expect: int | None = None) -> AliasEntry:
        """Point an alias at a version; with `expect`, only if it points at that version now (0: nowhere).

        Raises:
            RequestError: The alias has a malformed name, or is `latest`.
            NotFoundError: There is no such version, or it was deleted.
            ConflictError: The alias points elsewhere than expected, was moved at the same moment, or points at a
                version that was deleted at the same moment.
            IntegrityError: The store was rolled back; nothing is written on top of it.
        """
        check_alias(alias)
        mid = self.mid(kind, name)
        target = self.resolve(kind, Reference(name=name, selector=str(seq)))
        entry, digest = self._aliases.move(mid, alias, target, expect)
        if self._index:
            self._index.alias(kind, name, entry, digest)
        if self._deletions.find(mid, seq, str(target)):
            raise ConflictError(f"{target} was deleted while alias {alias!r} moved to it; move the alias elsewhere.")
        return entry

    def aliases(self, kind: AssetKind, name: str) -> dict[str, int]:
        """Return every alias of an asset with the version number it points at."""
        mid = self.mid(kind, name)
        return {alias: self._aliases.entry(kind, name, mid, alias).seq for alias in self._aliases.names(mid)}

    def alias_history(self, kind: AssetKind, name: str, alias: str) -> list[AliasMove]:
        """Return every move of an alias, oldest first; NotFoundError if there is no such alias."""
        return self._aliases.history(kind, name, self.mid(kind, name), check_alias(alias))

    def roll_back(self, kind: AssetKind, name: str, alias: str, *, to: int | None = None) -> AliasEntry:
        """Move an alias back to where it pointed before its last move, or to `to`, where it once pointed.

        A rollback is a move like others: it is in the history, and rolling back again undoes it.

        Raises:
            NotFoundError: There is no such alias, it never pointed there, or that version was deleted.
            ConflictError: Somebody else moves the alias at the same moment.
        """
        moves = self.alias_history(kind, name, alias)
        return self.set_alias(kind, name, alias, former_target(moves, to), expect=moves[-1].target)

    # -- annotations --------------------------------------------------------

    def annotate(self, id: VersionId, change: Change) -> Annotation:
        """Say something of a version: tags, stage, evaluation or text; signed, and sealed under its key.

        Raises:
            RequestError: A tag is malformed, or nothing is said.
            NotFoundError: There is no such version, or it was deleted.
            ConflictError: Too many others annotate the asset at once.
            IntegrityError: The log is not what was written; nothing is written on top of it.
        """
        check_change(change)
        mid = self.mid(id.kind, id.name)
        record, _ = self._log.commit(mid, id.seq, expect=id.digest, what=str(id))
        self._deletions.refuse(id, mid)
        manifest, key = self._manifests.read(mid, id, record.manifest)
        entry = self._annotations.append(mid, id, key, change)
        if self._index:
            self._index.version(id, mid, manifest)
            self._index.catch_up(mid, id.name)
        return entry

    def notes(self, id: VersionId) -> Notes:
        """Return all that is said of a version, read from the signed log and not from the catalog.

        Raises:
            NotFoundError: There is no such version, or it was deleted.
            IntegrityError: An entry is not what was written, or the newest ones are hidden.
        """
        mid = self.mid(id.kind, id.name)
        record, _ = self._log.commit(mid, id.seq, expect=id.digest, what=str(id))
        self._deletions.refuse(id, mid)
        key = self._manifests.key(mid, id.seq, record.manifest)
        notes = Notes()
        for entry, _ in self._annotations.entries(mid, 1, id.name):
            if entry.seq == id.seq:
                notes = notes.after(self._annotations.unseal(entry, key))
        return notes

    # -- the catalog --------------------------------------------------------

    def heal(self) -> int:
        """Record in the catalog what the store holds and the catalog lacks; return how many entries.

        Whatever does not verify is left out, with a line in the log, until it is repaired.
        """
        return self._index.heal() if self._index else 0
