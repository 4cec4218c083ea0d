"""A version under new keys all the way down: its content, sealed again and published as the next version.

This is for when a version key or blob key may have been read: wrapping it again would not help. What it does
not do: the old version stays on the store and readable with its old keys until it is erased or removed, and
whoever read those keys and copied the blobs can still decrypt the copies. Aliases stay where they are.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.records.assets import BlobEntry, FileEntry, Piece, VersionSummary
from lightmill.records.references import VersionId
from lightmill.registry.content import key_bytes, put_if_absent
from lightmill.registry.draft import Draft
from lightmill.registry.names import blob_name
from lightmill.registry.registry import Content, Registry
from lightmill.registry.version import OpenVersion
from lightmill.vault import BlobContext, new_key, open_blob, seal_blob

ResealObject = Callable[[OpenVersion, FileEntry, Draft], FileEntry]
"""Decrypts a file that is an object of its own (Parquet) and stores it again through the draft."""


def rekey(
    registry: Registry,
    id: VersionId,
    reseal_object: ResealObject,
    progress: Callable[[int, int], None] | None = None,
) -> VersionSummary:
    """Publish the content of a version again, with a new version key and a new key for every blob.

    At most one blob (64 MiB) or one Parquet file is in memory at a time.

    Raises:
        NotFoundError: There is no such version.
        IntegrityError: Stored bytes are not what was written; nothing is published.
        UnavailableError: The store does not answer; nothing is published.
    """
    version = registry.open(id)
    draft = registry.begin(id.kind, id.name)
    try:
        return registry.commit(draft, _resealed(registry, version, draft, reseal_object, progress))
    except BaseException:
        draft.release()
        raise


def _resealed(
    registry: Registry,
    version: OpenVersion,
    draft: Draft,
    reseal_object: ResealObject,
    progress: Callable[[int, int], None] | None,
) -> Content:
    """Seal every blob and every Parquet file again; return what to commit."""
    manifest = version.manifest
    total = len(manifest.blobs) + sum(file.object is not None for file in manifest.files)
    done = itertools.count(1)

    def count() -> None:
        if progress:
            progress(next(done), total)

    blobs: dict[str, BlobEntry] = {}
    for entry in manifest.blobs:
        blobs[entry.id] = _reseal_blob(registry, entry)
        count()
    files: list[FileEntry] = []
    for file in manifest.files:
        if file.object is None:
            files.append(file.model_copy(update={"pieces": _moved(file.pieces, blobs)}))
        else:
            files.append(reseal_object(version, file, draft))
            count()
    tensors = [tensor.model_copy(update={"pieces": _moved(tensor.pieces, blobs)}) for tensor in manifest.tensors]
    return Content(
        files=tuple(files),
        tensors=tuple(tensors),
        safetensors_header=manifest.safetensors_header,
        blobs=tuple(blobs.values()),
        dataset=manifest.dataset,
        model=manifest.model,
        run=manifest.run,
        provenance=manifest.provenance,
    )


def _reseal_blob(registry: Registry, entry: BlobEntry) -> BlobEntry:
    """Store one blob's plaintext under a fresh key; everything but the key and the object's name stays."""
    context = BlobContext.for_data(registry.store_id, registry.workspace)
    name = blob_name(entry.id)
    try:
        sealed = registry.store.get(name)
    except NotFoundError as exc:
        raise IntegrityError(f"Object {name} is missing from {registry.store.url}; restore it from a backup.") from exc
    if len(sealed) != entry.size:
        raise IntegrityError(f"Object {name} has another size than its version says; restore it from a backup.")
    key = new_key()
    made = seal_blob(open_blob(sealed, key_bytes(entry), context, entry.length, name=name), key, context)
    digest = hashlib.sha256(made).hexdigest()
    put_if_absent(registry.store, blob_name(digest), made)
    return entry.model_copy(update={"id": digest, "key": key.hex(), "size": len(made)})


def _moved(pieces: Sequence[Piece], blobs: dict[str, BlobEntry]) -> tuple[Piece, ...]:
    return tuple(piece.model_copy(update={"blob": blobs[piece.blob].id}) for piece in pieces)
