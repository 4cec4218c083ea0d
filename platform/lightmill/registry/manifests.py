"""Sealed manifests and the envelopes that hold their keys."""

from __future__ import annotations

import hashlib

from lightmill.errors import ConflictError, IntegrityError
from lightmill.records.assets import BlobRef, Manifest
from lightmill.records.references import AssetKind, VersionId
from lightmill.registry import names
from lightmill.registry.content import put_if_absent
from lightmill.registry.envelopes import open_newest
from lightmill.registry.signed import SignedLog, fetch, read_record
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

MANIFEST_MAX_BYTES = 64 << 20


class Manifests:
    """Reads and writes manifests of one workspace on one store."""

    def __init__(self, store: BlobStore, keyring: KeyRing, workspace: str, store_id: str, log: SignedLog) -> None:
        self._store = store
        self._keyring = keyring
        self._workspace = workspace
        self._store_id = store_id
        self._log = log

    def read(self, mid: str, id: VersionId, ref: BlobRef) -> tuple[Manifest, bytes]:
        """Return a version's manifest and the version key.

        Raises:
            IntegrityError: The manifest or envelope is missing or not what was written, or belongs elsewhere.
        """
        manifest, key = self._open(mid, str(id), id.seq, ref)
        if (manifest.kind, manifest.name, manifest.seq) != (id.kind, id.name, id.seq):
            raise IntegrityError(
                f"The manifest of {id} describes {manifest.kind} {manifest.name}@{manifest.seq}; it was swapped."
            )
        return manifest, key

    def adopt(self, mid: str, seq: int) -> tuple[VersionId, Manifest]:
        """Read a version of which only its opaque id is known; the sealed manifest has its name.

        Raises:
            NotFoundError: There is no such version.
            IntegrityError: Something stored is not what was written.
        """
        record, digest = self._log.commit(mid, seq, what=f"{mid}@{seq}")
        manifest, _ = self._open(mid, f"{mid}@{seq}", seq, record.manifest)
        if self._keyring.asset_id(self._workspace, manifest.kind, manifest.name) != mid or manifest.seq != seq:
            raise IntegrityError(f"The manifest of {mid}@{seq} describes another version; it was swapped.")
        return VersionId(kind=AssetKind(manifest.kind), name=manifest.name, seq=seq, digest=digest), manifest

    def key(self, mid: str, seq: int, ref: BlobRef) -> bytes:
        """Return the key of a version; errors as `read`."""
        return self._open(mid, f"{mid}@{seq}", seq, ref)[1]

    def _open(self, mid: str, what: str, seq: int, ref: BlobRef) -> tuple[Manifest, bytes]:
        name = names.manifest_name(ref.id)
        data = fetch(self._store, name)
        if len(data) != ref.size or hashlib.sha256(data).hexdigest() != ref.id:
            raise IntegrityError(f"The manifest of {what} is not what was written; restore it from a backup.")
        key, plaintext = self._unseal(mid, what, seq, data)
        return read_record(Manifest, plaintext, MANIFEST_MAX_BYTES, name), key

    def _unseal(self, mid: str, what: str, seq: int, data: bytes) -> tuple[bytes, bytes]:
        """Return the version key and the manifest's plaintext.

        Several envelopes may lie side by side (a rotation, or a publisher that lost the race for this
        number); the one whose key opens the manifest is the version's.
        """
        context = self._context(mid, seq)

        def open_one(name: str, envelope: bytes) -> tuple[bytes, bytes]:
            key = open_envelope(envelope, self._keyring.provider, self._envelope_context(mid, seq), name=name)
            return key, open_blob(data, key, context, name=f"manifest of {what}")

        found = open_newest(self._store, names.envelopes_prefix(mid, seq), open_one)
        if found is None:
            raise IntegrityError(f"{what} has no envelope on {self._store.url}; restore it from a backup.")
        return found

    def put(self, mid: str, manifest: Manifest, key: bytes) -> tuple[BlobRef, str]:
        """Seal and store a manifest and its envelope; return the manifest's reference and the envelope's name."""
        plaintext = canonical_json(manifest.model_dump(mode="json"))
        sealed = seal_blob(plaintext, key, self._context(mid, manifest.seq))
        ref = BlobRef(id=hashlib.sha256(sealed).hexdigest(), size=len(sealed))
        put_if_absent(self._store, names.manifest_name(ref.id), sealed)
        return ref, self._put_envelope(mid, manifest.seq, key)

    def _put_envelope(self, mid: str, seq: int, key: bytes) -> str:
        context = self._envelope_context(mid, seq)
        rot = 0
        while True:
            name = names.envelope_name(mid, seq, rot)
            envelope = seal_envelope(key, self._keyring.provider, context, rot=rot)
            try:
                self._store.create(name, envelope)
            except ConflictError:
                rot += 1
            else:
                return name

    def _context(self, mid: str, seq: int) -> BlobContext:
        return BlobContext.for_manifest(self._store_id, self._workspace, mid, seq)

    def _envelope_context(self, mid: str, seq: int) -> dict[str, str]:
        return {"store": self._store_id, "workspace": self._workspace, "mid": mid, "seq": str(seq)}
