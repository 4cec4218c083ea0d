"""One opened version: its manifest, verified, and the means to read its bytes."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.records.assets import BlobEntry, FileEntry, Manifest, TensorEntry
from lightmill.records.references import VersionId
from lightmill.registry.content import LOAD_THREADS, Target, load_targets
from lightmill.registry.names import blob_name
from lightmill.storage import BlobStore
from lightmill.vault import BlobContext, Confined, decode_base64, parquet_key

SAFETENSORS_FILE = "model.safetensors"


class OpenVersion(Confined):
    """A version whose signature, chain digest, envelope and manifest have verified."""

    def __init__(self, id: VersionId, manifest: Manifest, key: bytes, store: BlobStore, context: BlobContext) -> None:
        self.id = id
        self.manifest = manifest
        self._key = key
        self._store = store
        self._context = context
        self._blobs: Mapping[str, BlobEntry] = {blob.id: blob for blob in manifest.blobs}

    def __repr__(self) -> str:
        return f"OpenVersion({self.id.kind} {self.id})"

    def subkey(self, name: str) -> bytes:
        """Return the 32-byte key for the Parquet columns or footer called `name`."""
        return parquet_key(self._key, name)

    def tensor(self, name: str) -> TensorEntry:
        """Return the entry of a tensor.

        Raises:
            NotFoundError: The version holds no such tensor.
        """
        for entry in self.manifest.tensors:
            if entry.name == name:
                return entry
        raise NotFoundError(f"{self.id} holds no tensor {name!r}.")

    def load_into(
        self,
        outs: Mapping[str, memoryview],
        *,
        threads: int = LOAD_THREADS,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Read tensors into `outs` (name to writable bytes of the tensor's exact size).

        Raises:
            IntegrityError: Stored bytes are not what was written; every destination is zeroed.
            NotFoundError: The version holds no tensor of such a name.
        """
        targets: list[Target] = []
        for name, out in outs.items():
            done = 0
            for piece in self.tensor(name).pieces:
                targets.append(Target(blob=piece.blob, offset=piece.offset, out=out[done : done + piece.length]))
                done += piece.length
            if done != out.nbytes:
                raise IntegrityError(f"Tensor {name!r} of {self.id} has {done} bytes; {out.nbytes} were expected.")
        load_targets(self._store, self._context, self._blobs, targets, threads=threads, progress=progress)

    def read_file(self, path: str) -> bytes:
        """Return a file that lies in blobs.

        Raises:
            NotFoundError: The version holds no such file.
            IntegrityError: Its bytes are not what was written.
        """
        entry = next((file for file in self.manifest.files if file.path == path), None)
        if entry is None or entry.object is not None:
            raise NotFoundError(f"{self.id} holds no file {path!r}.")
        head = safetensors_head(self.manifest) if path == SAFETENSORS_FILE else b""
        out = bytearray(head.ljust(entry.size, b"\0"))
        view, done, targets = memoryview(out), len(head), []
        for piece in entry.pieces:
            targets.append(Target(blob=piece.blob, offset=piece.offset, out=view[done : done + piece.length]))
            done += piece.length
        load_targets(self._store, self._context, self._blobs, targets)
        if hashlib.sha256(out).hexdigest() != entry.sha256:
            raise IntegrityError(f"File {path!r} of {self.id} has another digest than its manifest says.")
        return bytes(out)

    def read_range(self, path: str, offset: int, out: memoryview) -> None:
        """Fill `out` with the bytes of a file from `offset` on; only the segments that hold them are read.

        Raises:
            NotFoundError: The version holds no such file in blobs.
            IntegrityError: Its bytes are not what was written, or end before `out` is full; nothing unverified
                is left in `out`.
        """
        entry = next((file for file in self.manifest.files if file.path == path), None)
        if entry is None or entry.object is not None:
            raise NotFoundError(f"{self.id} holds no file {path!r}.")
        head = safetensors_head(self.manifest) if path == SAFETENSORS_FILE else b""
        part = head[offset : offset + out.nbytes]
        out[: len(part)] = part
        start, done, targets = len(head), len(part), []
        for piece in entry.pieces:
            skip = max(0, offset + done - start)
            if skip < piece.length and done < out.nbytes:
                length = min(piece.length - skip, out.nbytes - done)
                targets.append(Target(blob=piece.blob, offset=piece.offset + skip, out=out[done : done + length]))
                done += length
            start += piece.length
        if done != out.nbytes:
            out[:] = bytes(out.nbytes)
            raise IntegrityError(f"File {path!r} of {self.id} ends before byte {offset + out.nbytes}.")
        load_targets(self._store, self._context, self._blobs, targets, threads=1)

    def read_object(self, entry: FileEntry) -> bytes:
        """Return the encrypted bytes of a file that is an object of its own; see `read_object`."""
        return read_object(self._store, entry)


def safetensors_head(manifest: Manifest) -> bytes:
    """Return the beginning of `model.safetensors`, up to the data: its header's length and its header."""
    header = decode_base64(manifest.safetensors_header, name=f"header of {manifest.name}@{manifest.seq}")
    return struct.pack("<Q", len(header)) + header


def read_object(store: BlobStore, entry: FileEntry) -> bytes:
    """Return an object's bytes after checking their digest, before anything parses them.

    Raises:
        IntegrityError: It is missing or its bytes are not what was written.
    """
    name = blob_name(entry.object or "")
    try:
        data = store.get(name)
    except NotFoundError as exc:
        raise IntegrityError(f"Object {name} is missing from {store.url}; restore it from a backup.") from exc
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise IntegrityError(
            f"Object {name} ({entry.path}) is not what was written: its digest differs. Restore it from a backup."
        )
    return data
