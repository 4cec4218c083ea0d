"""The registry: immutable versions and movable aliases over an encrypted object store.

Write order: blobs, manifest, envelope, commit record, alias entry; read in reverse. Store first, catalog
second; `heal` closes the gap that a crash between the two leaves.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lightmill.errors import ConflictError, IntegrityError, NotFoundError
from lightmill.records.assets import (
    AliasEntry,
    BlobEntry,
    BlobRef,
    CommitRecord,
    DatasetCard,
    FileEntry,
    Manifest,
    ModelCard,
    Provenance,
    RunCard,
    TensorEntry,
    VersionSummary,
)
from lightmill.records.base import now_iso
from lightmill.records.references import LATEST, AssetKind, Reference, VersionId, check_alias, check_name
from lightmill.registry import draft as drafts
from lightmill.registry import names
from lightmill.registry.content import put_if_absent
from lightmill.registry.envelopes import open_newest
from lightmill.registry.signed import SignedLog, read_record
from lightmill.registry.summary import summarize
from lightmill.registry.version import OpenVersion
from lightmill.storage import BlobStore
from lightmill.vault import (
    BlobContext,
    KeyRing,
    canonical_json,
    open_blob,
    open_envelope,
    seal_blob,
    seal_envelope,
)

if TYPE_CHECKING:  # workers and replicas use no catalog and need not load it
    from lightmill.catalog import Catalog

MANIFEST_MAX_BYTES = 64 << 20
COMMIT_ATTEMPTS = 100
OWN_VERSIONS_BACK = 8
logger = logging.getLogger("lightmill.registry")


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a commit makes visible: the sealed parts and one card."""

    files: tuple[FileEntry, ...] = ()
    tensors: tuple[TensorEntry, ...] = ()
    safetensors_header: str = ""
    blobs: tuple[BlobEntry, ...] = ()
    dataset: DatasetCard | None = None
    model: ModelCard | None = None
    run: RunCard | None = None
    provenance: Provenance = field(default_factory=Provenance)


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
        self._log = SignedLog(store, keyring, workspace, store_id)

    # -- names --------------------------------------------------------------

    def mid(self, kind: AssetKind, name: str) -> str:
        """Return the opaque id under which an asset's records lie on the store."""
        return self.keyring.asset_id(self.workspace, kind, check_name(name, kind))

    def latest(self, kind: AssetKind, name: str) -> int:
        """Return the highest version number, 0 when there is none.

        Raises:
            IntegrityError: The store holds fewer versions than the catalog remembers: it was rolled back.
        """
        mid = self.mid(kind, name)
        mark = self._mark(mid, "v")
        found = self._log.last(names.records_prefix(mid))
        self._check_mark(mark, mid, found, f"{kind} {name}", names.record_name)
        if not found:
            self._log.check_ring()
        return found

    def resolve(self, kind: AssetKind, reference: Reference) -> VersionId:
        """Return the version that a reference selects now.

        Raises:
            NotFoundError: There is no such asset, version or alias; the message lists what there is.
            IntegrityError: A record on the store is not what was written.
        """
        mid = self.mid(kind, reference.name)
        latest = self.latest(kind, reference.name)
        if not latest:
            raise NotFoundError(f"No {kind} {reference.name!r}. List what exists with `lightmill {kind}s list`.")
        if reference.selector == LATEST:
            seq = latest
        elif reference.seq is not None:
            seq = reference.seq
        else:
            entry = self._alias_entry(kind, reference.name, reference.selector)
            self._log.commit(mid, entry.seq, expect=entry.record, what=str(reference))
            return VersionId(kind=kind, name=reference.name, seq=entry.seq, digest=entry.record)
        if not 1 <= seq <= latest:
            raise NotFoundError(f"No {kind} {reference}; it has versions 1 to {latest}.")
        _, digest = self._log.commit(mid, seq, what=str(reference))
        return VersionId(kind=kind, name=reference.name, seq=seq, digest=digest)

    # -- reading ------------------------------------------------------------

    def open(self, id: VersionId) -> OpenVersion:
        """Verify a version and return it: signature, pinned digest, envelope, manifest.

        Raises:
            NotFoundError: There is no such version.
            IntegrityError: Something stored is not what was written, or the key ring is another one.
        """
        mid = self.mid(id.kind, id.name)
        try:
            record, _ = self._log.commit(mid, id.seq, expect=id.digest, what=str(id))
        except NotFoundError:
            self._log.check_ring()
            raise
        data = self._get(names.manifest_name(record.manifest.id))
        if len(data) != record.manifest.size or hashlib.sha256(data).hexdigest() != record.manifest.id:
            raise IntegrityError(f"The manifest of {id} is not what was written; restore it from a backup.")
        key, plaintext = self._unseal_manifest(mid, id, data)
        manifest = read_record(Manifest, plaintext, MANIFEST_MAX_BYTES, names.manifest_name(record.manifest.id))
        if (manifest.kind, manifest.name, manifest.seq) != (id.kind, id.name, id.seq):
            raise IntegrityError(
                f"The manifest of {id} describes {manifest.kind} {manifest.name}@{manifest.seq}; it was swapped."
            )
        return OpenVersion(id, manifest, key, self.store, BlobContext.for_data(self.store_id, self.workspace))

    def _unseal_manifest(self, mid: str, id: VersionId, data: bytes) -> tuple[bytes, bytes]:
        """Return the version key and the manifest's plaintext.

        Several envelopes may lie side by side (a rotation, or a publisher that lost the race for this
        number); the one whose key opens the manifest is the version's.
        """
        context = self._manifest_context(mid, id.seq)

        def open_one(name: str, envelope: bytes) -> tuple[bytes, bytes]:
            key = open_envelope(envelope, self.keyring.provider, self._envelope_context(mid, id.seq), name=name)
            return key, open_blob(data, key, context, name=f"manifest of {id}")

        found = open_newest(self.store, names.envelopes_prefix(mid, id.seq), open_one)
        if found is None:
            raise IntegrityError(f"{id} has no envelope on {self.store.url}; restore it from a backup.")
        return found

    def _get(self, name: str) -> bytes:
        try:
            return self.store.get(name)
        except NotFoundError as exc:
            raise IntegrityError(f"Object {name} is missing from {self.store.url}.") from exc

    # -- publishing ---------------------------------------------------------

    def begin(self, kind: AssetKind, name: str) -> drafts.Draft:
        """Start a version; its parts go through the draft, `commit` makes it visible."""
        check_name(name, kind)
        return drafts.begin(self.store, self.keyring, self.workspace, self.store_id, kind, name)

    def join(self, id: drafts.DraftId) -> drafts.Draft:
        """Open a draft that another process began; see `draft.join` for the errors."""
        return drafts.join(self.store, self.keyring, self.workspace, self.store_id, id)

    def commit(self, draft: drafts.Draft, content: Content) -> VersionSummary:
        """Make a draft visible as the next version, whole or not at all.

        A draft is published once: after a lost answer the call may be repeated and finds its own version.

        Raises:
            IntegrityError: The store was rolled back; nothing is written on top of it.
            ConflictError: Other publishers won the next number a hundred times in a row.
            UnavailableError: The store cannot be written.
        """
        for _ in range(COMMIT_ATTEMPTS):
            seq = self.latest(draft.id.kind, draft.id.name) + 1
            done = self._committed(draft, seq - 1) or self._try_commit(draft, content, seq)
            if done:
                draft.release()
                summary = self._summary(*done)
                self._index(summary)
                return summary
        raise ConflictError(
            f"{draft.id.name} is published by too many others at once; the draft was not committed. Try again."
        )

    def _committed(self, draft: drafts.Draft, last: int) -> tuple[VersionId, str, Manifest] | None:
        """Return the version that this draft became already, looking at the newest few."""
        for seq in range(last, max(0, last - OWN_VERSIONS_BACK), -1):
            record, _ = self._log.commit(draft.id.mid, seq, what=f"{draft.id.name}@{seq}")
            if record.nonce == draft.id.publish_id:
                return self._adopt(draft.id.mid, seq)
        return None

    def _try_commit(self, draft: drafts.Draft, content: Content, seq: int) -> tuple[VersionId, str, Manifest] | None:
        mid = draft.id.mid
        parent = self._log.commit(mid, seq - 1, what=f"{draft.id.name}@{seq - 1}")[1] if seq > 1 else None
        manifest = Manifest(
            kind=draft.id.kind,
            name=draft.id.name,
            seq=seq,
            created=now_iso(),
            parent=parent,
            provenance=content.provenance,
            files=content.files,
            tensors=content.tensors,
            safetensors_header=content.safetensors_header,
            blobs=content.blobs,
            dataset=content.dataset,
            model=content.model,
            run=content.run,
        )
        plaintext = canonical_json(manifest.model_dump(mode="json"))
        sealed = seal_blob(plaintext, draft.key, self._manifest_context(mid, seq))
        sealed_ref = BlobRef(id=hashlib.sha256(sealed).hexdigest(), size=len(sealed))
        put_if_absent(self.store, names.manifest_name(sealed_ref.id), sealed)
        envelope = self._put_envelope(mid, seq, draft.key)
        record = CommitRecord(
            store=self.store_id,
            workspace=self.workspace,
            mid=mid,
            seq=seq,
            parent=parent,
            manifest=sealed_ref,
            blobs=_blob_refs(content),
            created=manifest.created,
            publisher=self.keyring.signer.key_id,
            nonce=draft.id.publish_id,
        )
        digest = self._log.append_commit(record)
        if digest is None:
            self.store.delete(envelope)
            self.store.delete(names.manifest_name(sealed_ref.id))
            return None
        return VersionId(kind=draft.id.kind, name=draft.id.name, seq=seq, digest=digest), mid, manifest

    def _put_envelope(self, mid: str, seq: int, key: bytes) -> str:
        context = self._envelope_context(mid, seq)
        rot = 0
        while True:
            name = names.envelope_name(mid, seq, rot)
            envelope = seal_envelope(key, self.keyring.provider, context, rot=rot)
            try:
                self.store.create(name, envelope)
            except ConflictError:
                rot += 1
            else:
                return name

    # -- aliases ------------------------------------------------------------

    def set_alias(self, kind: AssetKind, name: str, alias: str, seq: int, *, expect: int | None = None) -> AliasEntry:
        """Point an alias at a version; with `expect`, only if it points at that version now (0: nowhere).

        Raises:
            RequestError: The alias has a malformed name, or is `latest`.
            NotFoundError: There is no such version.
            ConflictError: The alias points elsewhere than expected, or was moved at the same moment.
            IntegrityError: The store was rolled back; nothing is written on top of it.
        """
        check_alias(alias)
        target = self.resolve(kind, Reference(name=name, selector=str(seq)))
        mid = self.mid(kind, name)
        n = self._last_move(mid, name, alias)
        current = self._log.alias(mid, alias, n, what=f"{name}@{alias}") if n else None
        points_at = current[0].seq if current else 0
        if expect is not None and points_at != expect:
            raise ConflictError(
                f"Alias {alias!r} of {name} points at version {points_at}, not {expect}; look again, then repeat."
            )
        if current and points_at == seq:
            self._index_alias(kind, name, *current)
            return current[0]
        entry = AliasEntry(
            store=self.store_id,
            workspace=self.workspace,
            mid=mid,
            alias=alias,
            n=n + 1,
            parent=current[1] if current else None,
            seq=seq,
            record=target.digest,
            created=now_iso(),
            publisher=self.keyring.signer.key_id,
            nonce=secrets.token_hex(16),
        )
        digest = self._log.append_alias(entry)
        if digest is None:
            raise ConflictError(f"Alias {alias!r} of {name} was moved by somebody else just now; repeat.")
        self._index_alias(kind, name, entry, digest)
        return entry

    def aliases(self, kind: AssetKind, name: str) -> dict[str, int]:
        """Return every alias of an asset with the version number it points at."""
        mid = self.mid(kind, name)
        return {alias: self._alias_entry(kind, name, alias).seq for alias in self._alias_names(mid)}

    def _alias_names(self, mid: str) -> list[str]:
        prefix = names.aliases_prefix(mid)
        return sorted({entry[len(prefix) :].split("/", 1)[0] for entry in self.store.list(prefix)})

    def _last_move(self, mid: str, name: str, alias: str) -> int:
        mark = self._mark(mid, f"a/{alias}")
        n = self._log.last(names.alias_prefix(mid, alias))
        what = f"alias {name}@{alias}"
        self._check_mark(mark, mid, n, what, lambda mid, n: names.alias_name(mid, alias, n))
        return n

    def _alias_entry(self, kind: AssetKind, name: str, alias: str) -> AliasEntry:
        mid = self.mid(kind, name)
        n = self._last_move(mid, name, alias)
        if not n:
            there = ", ".join(self.aliases(kind, name)) or "none"
            raise NotFoundError(
                f"{kind.capitalize()} {name!r} has no alias {alias!r} (aliases: {there}). "
                f"Set it with `lightmill {kind}s alias {name} {alias} VERSION`."
            )
        return self._log.alias(mid, alias, n, what=f"{name}@{alias}")[0]

    # -- the catalog --------------------------------------------------------

    def heal(self) -> int:
        """Record in the catalog what the store holds and the catalog lacks; return how many entries.

        A version or alias whose records do not verify is left out, with a line in the log, until it is repaired.
        """
        if self.catalog is None:
            return 0
        catalog = self.catalog
        return sum(self._heal_asset(catalog, mid) for mid in self._log.assets())

    def _heal_asset(self, catalog: Catalog, mid: str) -> int:
        known = catalog.versions.recorded(mid)
        last = self._log.last(names.records_prefix(mid))
        healed = 0
        for seq in sorted(set(range(1, last + 1)) - known):
            try:
                self._index(self._summary(*self._adopt(mid, seq)))
            except (IntegrityError, NotFoundError) as exc:
                logger.error("%s@%d stays out of the catalog: %s", mid, seq, exc.message)
            else:
                healed += 1
        asset = catalog.versions.named(mid)
        if asset:
            healed += self._heal_aliases(catalog, mid, *asset)
        return healed

    def _heal_aliases(self, catalog: Catalog, mid: str, kind: AssetKind, name: str) -> int:
        healed = 0
        for alias in self._alias_names(mid):
            n = self._log.last(names.alias_prefix(mid, alias))
            mark = catalog.marks.get(mid, f"a/{alias}")
            if mark and mark[0] >= n:
                continue
            try:
                self._index_alias(kind, name, *self._log.alias(mid, alias, n, what=f"{name}@{alias}"))
            except (IntegrityError, NotFoundError) as exc:
                logger.error("alias %s@%s stays out of the catalog: %s", name, alias, exc.message)
            else:
                healed += 1
        return healed

    def _adopt(self, mid: str, seq: int) -> tuple[VersionId, str, Manifest]:
        """Read a version of which only its opaque id is known; the sealed manifest has its name."""
        record, digest = self._log.commit(mid, seq, what=f"{mid}@{seq}")
        data = self._get(names.manifest_name(record.manifest.id))
        probe = VersionId(kind=AssetKind.MODEL, name="unknown", seq=seq, digest=digest)
        _, plaintext = self._unseal_manifest(mid, probe, data)
        manifest = read_record(Manifest, plaintext, MANIFEST_MAX_BYTES, mid)
        if self.mid(manifest.kind, manifest.name) != mid:
            raise IntegrityError(f"The manifest of {mid}@{seq} describes another asset; it was swapped.")
        id = VersionId(kind=manifest.kind, name=manifest.name, seq=seq, digest=digest)
        return id, mid, manifest

    def _summary(self, id: VersionId, mid: str, manifest: Manifest) -> VersionSummary:
        return summarize(id, mid, manifest)

    def _index(self, summary: VersionSummary) -> None:
        if self.catalog:
            self.catalog.versions.record(summary, self.workspace)
            self.catalog.marks.raise_to(summary.mid, "v", summary.id.seq, summary.id.digest)

    def _index_alias(self, kind: AssetKind, name: str, entry: AliasEntry, digest: str) -> None:
        if self.catalog:
            self.catalog.versions.set_alias(kind, name, entry.alias, entry.seq, entry.n)
            self.catalog.marks.raise_to(entry.mid, f"a/{entry.alias}", entry.n, digest)

    def _mark(self, mid: str, stream: str) -> tuple[int, str] | None:
        """Return the highest entry ever seen; read it before the store, which others append to meanwhile."""
        return self.catalog.marks.get(mid, stream) if self.catalog else None

    def _check_mark(
        self, mark: tuple[int, str] | None, mid: str, found: int, what: str, name_of: Callable[[str, int], str]
    ) -> None:
        """Compare what the store ends with to the highest entry ever seen, by number and by digest."""
        if mark is None:
            return
        if mark[0] > found:
            raise IntegrityError(
                f"The store at {self.store.url} ends at entry {found} of {what}, but {mark[0]} was seen before: "
                "the store was rolled back or an object deleted. Restore it from a backup."
            )
        if hashlib.sha256(self._get(name_of(mid, mark[0]))).hexdigest() != mark[1]:
            raise IntegrityError(
                f"Entry {mark[0]} of {what} on {self.store.url} is another than was seen before: its history was "
                "rewritten. Restore it from a backup."
            )

    # -- contexts -----------------------------------------------------------

    def _manifest_context(self, mid: str, seq: int) -> BlobContext:
        return BlobContext.for_manifest(self.store_id, self.workspace, mid, seq)

    def _envelope_context(self, mid: str, seq: int) -> dict[str, str]:
        return {"store": self.store_id, "workspace": self.workspace, "mid": mid, "seq": str(seq)}


def _blob_refs(content: Content) -> tuple[BlobRef, ...]:
    """List the objects that a version keeps alive, by id."""
    sizes = {blob.id: blob.size for blob in content.blobs}
    sizes |= {file.object: file.size for file in content.files if file.object}
    return tuple(BlobRef(id=id, size=size) for id, size in sorted(sizes.items()))
