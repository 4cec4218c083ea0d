"""One opened version: its manifest, verified, and the means to read its bytes."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from blake3 import blake3

from lightmill.errors import IntegrityError, NotFoundError, RequestError
from lightmill.records.assets import BlobEntry, FileEntry, Manifest, TensorEntry
from lightmill.records.references import VersionId
from lightmill.registry.content import Target, load_targets
from lightmill.registry.names import blob_name
from lightmill.registry.workers import Progress
from lightmill.storage import BlobStore
from lightmill.vault import BlobContext, Confined, decode_base64, parquet_key

SAFETENSORS_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRange:
    """Bytes [start, start + length of `out`) of a tensor, C order, and the writable memory that takes them."""

    name: str
    start: int
    out: memoryview


class OpenVersion(Confined):
    """A version whose signature, chain digest, envelope and manifest have verified."""

    def __init__(self, id: VersionId, manifest: Manifest, key: bytes, store: BlobStore, context: BlobContext) -> None:
        self.id = id
        self.manifest = manifest
        self._key = key
        self._store = store
        self._context = context
        self._blobs: Mapping[str, BlobEntry] = {blob.id: blob for blob in manifest.blobs}
        self._tensors: Mapping[str, TensorEntry] = {entry.name: entry for entry in manifest.tensors}

    def __repr__(self) -> str:
        return f"OpenVersion({self.id.kind} {self.id})"

    @property
    def context(self) -> BlobContext:
        """What its blobs are sealed for: store and workspace."""
        return self._context

    def subkey(self, name: str) -> bytes:
        """Return the 32-byte key for the Parquet columns or footer called `name`."""
        return parquet_key(self._key, name)

    def file_subkey(self, entry: FileEntry) -> Callable[[str], bytes]:
        """Return what gives the keys of a Parquet file, by the name of the key: this version's, or its lender's.

        Raises:
            IntegrityError: (when called) the manifest gives no key of that name.
        """
        if entry.lender is None:
            return self.subkey
        try:
            lender = self.manifest.lenders[entry.lender]
        except IndexError as exc:
            raise IntegrityError(f"The manifest of {self.id} names no lender {entry.lender}; it is damaged.") from exc

        def subkey(name: str) -> bytes:
            if name not in lender.subkeys:
                raise IntegrityError(f"The manifest of {self.id} has no key {name!r} for {entry.path}; it is damaged.")
            return bytes.fromhex(lender.subkeys[name])

        return subkey

    def tensor(self, name: str) -> TensorEntry:
        """Return the entry of a tensor.

        Raises:
            NotFoundError: The version holds no such tensor.
        """
        try:
            return self._tensors[name]
        except KeyError:
            raise NotFoundError(f"{self.id} holds no tensor {name!r}.") from None

    def load_into(
        self, outs: Mapping[str, memoryview], *, threads: int | None = None, progress: Progress | None = None
    ) -> None:
        """Read tensors into `outs` (name to writable bytes of the tensor's exact size).

        Args:
            outs: The destinations.
            threads: How many threads read and decrypt; by default what suits CPUs and store.
            progress: Called with (bytes done, bytes in all).

        Raises:
            IntegrityError: Stored bytes are not what was written; every destination is zeroed.
            NotFoundError: The version holds no tensor of such a name.
            UnavailableError: The store does not answer; every destination is zeroed.
        """
        for name, out in outs.items():
            size = sum(piece.length for piece in self.tensor(name).pieces)
            if size != out.nbytes:
                raise IntegrityError(f"Tensor {name!r} of {self.id} has {size} bytes; {out.nbytes} were expected.")
        ranges = [TensorRange(name=name, start=0, out=out) for name, out in outs.items()]
        self.load_ranges(ranges, threads=threads, progress=progress)

    def load_ranges(
        self, ranges: Sequence[TensorRange], *, threads: int | None = None, progress: Progress | None = None
    ) -> None:
        """Read parts of tensors, and of the store little more than that; see `planning` for how much.

        Raises:
            RequestError: A range lies outside its tensor; nothing was read.
            IntegrityError: Stored bytes are not what was written; every destination is zeroed.
            NotFoundError: The version holds no tensor of such a name.
            UnavailableError: The store does not answer; every destination is zeroed.
        """
        targets = [target for wanted in ranges for target in self._targets(wanted)]
        load_targets(self._store, self._context, self._blobs, targets, threads=threads, progress=progress)

    def _targets(self, wanted: TensorRange) -> list[Target]:
        """Say which bytes of which blobs a range is."""
        targets: list[Target] = []
        base, end = 0, wanted.start + wanted.out.nbytes
        for piece in self.tensor(wanted.name).pieces:
            low, high = max(wanted.start, base), min(end, base + piece.length)
            if low < high:
                out = wanted.out[low - wanted.start : high - wanted.start]
                targets.append(Target(blob=piece.blob, offset=piece.offset + low - base, out=out))
            base += piece.length
        if not 0 <= wanted.start <= end <= base:
            raise RequestError(f"Tensor {wanted.name!r} of {self.id} has {base} bytes; not {wanted.start} to {end}.")
        return targets

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
    if len(data) != entry.size or not _has_digest(data, entry):
        raise IntegrityError(
            f"Object {name} ({entry.path}) is not what was written: its digest differs. Restore it from a backup."
        )
    return data


def _has_digest(data: bytes, entry: FileEntry) -> bool:
    """Return whether bytes are what the manifest says, by the quicker of the digests that it lists.

    BLAKE3 takes a quarter of SHA-256's time on a processor with instructions for SHA (4.7 and 20 ms of 28 MB).
    """
    if entry.blake3 is not None:
        return blake3(data).hexdigest() == entry.blake3
    return hashlib.sha256(data).hexdigest() == entry.sha256
