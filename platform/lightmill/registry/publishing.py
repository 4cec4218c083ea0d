"""From a draft to a visible version: whole or not at all, with any number of publishers at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lightmill.errors import ConflictError
from lightmill.records.assets import (
    BlobEntry,
    BlobRef,
    CommitRecord,
    DatasetCard,
    FileEntry,
    Lender,
    Manifest,
    ModelCard,
    Provenance,
    RunCard,
    TensorEntry,
)
from lightmill.records.base import now_iso
from lightmill.records.references import VersionId
from lightmill.registry import names
from lightmill.registry.draft import Draft
from lightmill.registry.manifests import Manifests
from lightmill.registry.signed import SignedLog
from lightmill.storage import BlobStore
from lightmill.vault import KeyRing

PATIENCE_S = 600.0
"""How long a publisher that always loses its number to others tries on."""

FIRST_PAUSE_S = 0.002
LONGEST_PAUSE_S = 0.25
OWN_VERSIONS_BACK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a commit makes visible: the sealed parts and one card."""

    files: tuple[FileEntry, ...] = ()
    tensors: tuple[TensorEntry, ...] = ()
    safetensors_header: str = ""
    blobs: tuple[BlobEntry, ...] = ()
    lenders: tuple[Lender, ...] = ()
    dataset: DatasetCard | None = None
    model: ModelCard | None = None
    run: RunCard | None = None
    provenance: Provenance = field(default_factory=Provenance)


class Publisher:
    """Commits drafts of one workspace."""

    def __init__(
        self,
        store: BlobStore,
        keyring: KeyRing,
        workspace: str,
        store_id: str,
        log: SignedLog,
        manifests: Manifests,
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._workspace = workspace
        self._store_id = store_id
        self._log = log
        self._manifests = manifests

    def publish(
        self, draft: Draft, content: Content, latest: Callable[[], int], after: int | None = None
    ) -> tuple[VersionId, Manifest]:
        """Publish a draft as the version after `latest()`; see `Registry.commit` for the errors."""
        began, losses, last = time.monotonic(), 0, latest()
        done = self._committed(draft, last)
        if not done and after in (None, last):
            done = self._try(draft, content, last + 1)
        while not done:
            if after is not None:
                raise ConflictError(
                    f"Version {after + 1} of {draft.id.name} was published meanwhile, and this one would not hold its "
                    "rows. Run the job again."
                )
            losses += 1
            if time.monotonic() - began > PATIENCE_S:
                raise ConflictError(
                    f"{draft.id.name} is published by too many others at once: {losses} numbers were lost to them in "
                    f"{PATIENCE_S:g} s. The draft was not committed. Try again."
                )
            # A random pause, so that those who lost together do not meet again.
            time.sleep(random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(losses, 10))))  # noqa: S311
            last = self._log.last_after(draft.id.mid, last + 1)
            done = self._try(draft, content, last + 1)
        draft.release()
        return done

    def _committed(self, draft: Draft, last: int) -> tuple[VersionId, Manifest] | None:
        """Return the version that this draft became already, looking at the newest few."""
        for seq in range(last, max(0, last - OWN_VERSIONS_BACK), -1):
            record, _ = self._log.commit(draft.id.mid, seq, what=f"{draft.id.name}@{seq}")
            if record.nonce == draft.id.publish_id:
                return self._manifests.adopt(draft.id.mid, seq)
        return None

    def _try(self, draft: Draft, content: Content, seq: int) -> tuple[VersionId, Manifest] | None:
        mid = draft.id.mid
        parent = self._log.commit(mid, seq - 1, what=f"{draft.id.name}@{seq - 1}")[1] if seq > 1 else None
        manifest = _manifest(draft, content, seq, parent)
        ref, envelope = self._manifests.put(mid, manifest, draft.key)
        record = CommitRecord(
            store=self._store_id,
            workspace=self._workspace,
            mid=mid,
            seq=seq,
            parent=parent,
            manifest=ref,
            blobs=_blob_refs(content),
            created=manifest.created,
            publisher=self._keyring.signer.key_id,
            nonce=draft.id.publish_id,
        )
        digest = self._log.append_commit(record)
        if digest is None:
            self._store.delete(envelope)
            self._store.delete(names.manifest_name(ref.id))
            return None
        return VersionId(kind=draft.id.kind, name=draft.id.name, seq=seq, digest=digest), manifest


def _manifest(draft: Draft, content: Content, seq: int, parent: str | None) -> Manifest:
    return Manifest(
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
        lenders=content.lenders,
        dataset=content.dataset,
        model=content.model,
        run=content.run,
    )


def _blob_refs(content: Content) -> tuple[BlobRef, ...]:
    """List the objects that a version keeps alive, by id."""
    sizes = {blob.id: blob.size for blob in content.blobs}
    sizes |= {file.object: file.size for file in content.files if file.object}
    return tuple(BlobRef(id=id, size=size) for id, size in sorted(sizes.items()))
