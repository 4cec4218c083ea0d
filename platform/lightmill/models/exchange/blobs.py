"""The blobs of a version, read whole: size, digest, every tag and the fingerprint, before a byte of one counts."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.records.assets import BlobEntry, FileEntry
from lightmill.registry import OpenVersion, Registry
from lightmill.registry.content import key_bytes
from lightmill.registry.names import blob_name
from lightmill.registry.version import SAFETENSORS_FILE, safetensors_head
from lightmill.vault import BlobContext, fingerprinter, open_blob

KEPT_BLOBS = 2
"""Neighbouring files share a blob; keeping two spares reading it again and bounds memory to 128 MiB."""


class WholeBlobs:
    """Reads and verifies blobs of one version; counts what it read.

    Attributes:
        read_bytes: Bytes fetched from the store.
        seen: The blobs that have verified, by id.
    """

    def __init__(self, registry: Registry, version: OpenVersion) -> None:
        self.read_bytes = 0
        self.seen: set[str] = set()
        self._store = registry.store
        self._context = BlobContext.for_data(registry.store_id, registry.workspace)
        self._dedup_key = registry.keyring.dedup_key(registry.workspace, registry.mid(version.id.kind, version.id.name))
        self._entries = {blob.id: blob for blob in version.manifest.blobs}
        self._version = version
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def plaintext(self, id: str) -> bytes:
        """Return a blob's plaintext.

        Raises:
            IntegrityError: The object is missing, or any byte of it is not what was written.
            UnavailableError: The store does not answer.
        """
        if id in self._kept:
            self._kept.move_to_end(id)
            return self._kept[id]
        entry = self._entries.get(id)
        if entry is None:
            raise IntegrityError(f"The manifest of {self._version.id} names no object {blob_name(id)}; it is damaged.")
        found = self._read(entry)
        self._kept[id] = found
        if len(self._kept) > KEPT_BLOBS:
            self._kept.popitem(last=False)
        return found

    def _read(self, entry: BlobEntry) -> bytes:
        name = blob_name(entry.id)
        try:
            data = self._store.get(name)
        except NotFoundError as exc:
            raise IntegrityError(f"Object {name} is missing from {self._store.url}; restore it from a backup.") from exc
        self.read_bytes += len(data)
        if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.id:
            raise IntegrityError(f"Object {name} is not what was written: its size or digest differs.")
        plaintext = open_blob(data, key_bytes(entry), self._context, name=name)
        if len(plaintext) != entry.length or fingerprinter(self._dedup_key, plaintext).hexdigest() != entry.dedup:
            raise IntegrityError(f"Object {name} holds other bytes than its manifest describes.")
        self.seen.add(entry.id)
        return plaintext

    def file(self, entry: FileEntry) -> Iterator[memoryview]:
        """Yield the bytes of a file in order; at the end its digest is checked.

        Raises:
            IntegrityError: A byte is not what was written. What was yielded before does not count then.
        """
        digest, size = hashlib.sha256(), 0
        for run in self._runs(entry):
            digest.update(run)
            size += run.nbytes
            yield run
        if size != entry.size or digest.hexdigest() != entry.sha256:
            raise IntegrityError(
                f"File {entry.path!r} of {self._version.id} has another digest than its manifest says."
            )

    def _runs(self, entry: FileEntry) -> Iterator[memoryview]:
        if entry.path == SAFETENSORS_FILE and self._version.manifest.safetensors_header:
            yield memoryview(safetensors_head(self._version.manifest))
        for piece in entry.pieces:
            whole = memoryview(self.plaintext(piece.blob))
            if piece.offset < 0 or piece.length < 0 or piece.offset + piece.length > whole.nbytes:
                raise IntegrityError(
                    f"File {entry.path!r} of {self._version.id} asks for bytes that object {blob_name(piece.blob)} "
                    "does not have; its manifest is damaged."
                )
            yield whole[piece.offset : piece.offset + piece.length]
