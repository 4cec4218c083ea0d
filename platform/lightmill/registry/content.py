"""Sealing items of bytes into blobs, and reading them back in parallel straight into their destination.

The loader exposes nothing until every segment that it needs has verified; on any failure it wipes every
destination first, since AES-GCM leaves unauthenticated plaintext behind.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lightmill.errors import ConflictError, IntegrityError, NotFoundError
from lightmill.records.assets import BlobEntry, Piece
from lightmill.registry.names import blob_name
from lightmill.registry.packing import Part, pack
from lightmill.storage import BlobStore
from lightmill.vault import HEADER_BYTES, BlobContext, BlobReader, fingerprint, new_key, seal_blob

LOAD_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where plaintext goes: bytes [offset, offset + length) of blob `blob` to `out`."""

    blob: str
    offset: int
    out: memoryview


def put_if_absent(store: BlobStore, name: str, data: bytes | bytearray | memoryview) -> None:
    """Create an object whose name is the digest of its bytes; one that exists already is the same."""
    try:
        store.create(name, data)
    except ConflictError:
        return


def seal_items(
    store: BlobStore, context: BlobContext, dedup_key: bytes, items: Sequence[memoryview]
) -> tuple[list[BlobEntry], list[tuple[Piece, ...]]]:
    """Seal `items` into blobs on the store; return the blobs and the pieces of every item."""
    parts = pack([item.nbytes for item in items])
    by_blob: dict[int, list[Part]] = {}
    for part in parts:
        by_blob.setdefault(part.blob, []).append(part)
    entries = {
        number: _seal_one(store, context, dedup_key, [items[p.item][p.start : p.start + p.length] for p in group])
        for number, group in by_blob.items()
    }
    pieces: list[list[Piece]] = [[] for _ in items]
    for part in parts:
        pieces[part.item].append(Piece(blob=entries[part.blob].id, offset=part.offset, length=part.length))
    return list(entries.values()), [tuple(found) for found in pieces]


def _seal_one(store: BlobStore, context: BlobContext, dedup_key: bytes, runs: Sequence[memoryview]) -> BlobEntry:
    plaintext = runs[0] if len(runs) == 1 else memoryview(b"".join(runs))
    key = new_key()
    sealed = seal_blob(plaintext, key, context)
    digest = hashlib.sha256(sealed).hexdigest()
    put_if_absent(store, blob_name(digest), sealed)
    return BlobEntry(
        id=digest,
        key=key.hex(),
        length=plaintext.nbytes,
        size=len(sealed),
        dedup=fingerprint(dedup_key, plaintext),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """One segment to decrypt and the destinations (within it) of its plaintext."""

    name: str
    reader: BlobReader
    index: int
    outs: tuple[tuple[int, memoryview], ...]


def load_targets(
    store: BlobStore,
    context: BlobContext,
    blobs: Mapping[str, BlobEntry],
    targets: Sequence[Target],
    *,
    threads: int = LOAD_THREADS,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Fill every target, reading and decrypting on `threads` threads with one segment buffer each.

    Raises:
        IntegrityError: An object is missing, damaged or not the one that was written. Every destination is
            zeroed.
        UnavailableError: The store does not answer. Every destination is zeroed.
    """
    try:
        segments = list(_plan(store, context, blobs, targets))
        _run(threads, segments, lambda segment, buffer: _fill(store, segment, buffer, progress))
    except BaseException:
        for target in targets:
            target.out[:] = bytes(target.out.nbytes)
        raise


def _plan(
    store: BlobStore, context: BlobContext, blobs: Mapping[str, BlobEntry], targets: Sequence[Target]
) -> Iterator[_Segment]:
    by_blob: dict[str, list[Target]] = {}
    for target in targets:
        if target.out.nbytes:
            by_blob.setdefault(target.blob, []).append(target)
    for blob, wanted in by_blob.items():
        entry = blobs.get(blob)
        name = blob_name(blob)
        if entry is None or any(t.offset < 0 or t.offset + t.out.nbytes > entry.length for t in wanted):
            raise IntegrityError(f"A manifest asks for bytes that object {name} does not have; it is damaged.")
        reader = open_reader(store, name, entry.size, entry.length, key_bytes(entry), context)
        outs: dict[int, list[tuple[int, memoryview]]] = {}
        for target in wanted:
            _cut(target, reader.segment_bytes, outs)
        for index in sorted(outs):
            yield _Segment(name=name, reader=reader, index=index, outs=tuple(outs[index]))


def _cut(target: Target, segment_bytes: int, outs: dict[int, list[tuple[int, memoryview]]]) -> None:
    """Cut a target at the segment borders."""
    done = 0
    while done < target.out.nbytes:
        index, within = divmod(target.offset + done, segment_bytes)
        length = min(segment_bytes - within, target.out.nbytes - done)
        outs.setdefault(index, []).append((within, target.out[done : done + length]))
        done += length


def key_bytes(entry: BlobEntry) -> bytes:
    """Return a blob's key; IntegrityError, which does not quote it, if it is none."""
    try:
        return bytes.fromhex(entry.key)
    except ValueError:
        raise IntegrityError(f"The manifest holds no key for object {blob_name(entry.id)}.") from None


def open_reader(
    store: BlobStore, name: str, size: int, length: int | None, key: bytes, context: BlobContext
) -> BlobReader:
    """Check an object's size and header and return its reader.

    Raises:
        IntegrityError: It is missing, has another size, or its header does not verify.
    """
    try:
        found = store.head(name)
        header = store.get_range(name, 0, HEADER_BYTES) if found >= HEADER_BYTES else b""
    except NotFoundError as exc:
        raise IntegrityError(f"Object {name} is missing from {store.url}; restore it from a backup.") from exc
    if found != size:
        raise IntegrityError(
            f"Object {name} has {found} bytes where its version says {size}; it was truncated or replaced. "
            "Restore it from a backup."
        )
    return BlobReader.parse(header, key, context, found, length, name=name)


def _fill(store: BlobStore, segment: _Segment, buffer: bytearray, progress: Callable[[int], None] | None) -> None:
    offset, length = segment.reader.span(segment.index)
    view = memoryview(buffer)[:length]
    try:
        store.read_into(segment.name, offset, view)
    except NotFoundError as exc:
        raise IntegrityError(f"Object {segment.name} is missing from {store.url}.") from exc
    within, out = segment.outs[0]
    if len(segment.outs) == 1 and within == 0 and out.nbytes == length - 16:
        segment.reader.decrypt_into(segment.index, view, out)
    else:
        plaintext = segment.reader.decrypt(segment.index, view)
        for start, part in segment.outs:
            part[:] = plaintext[start : start + part.nbytes]
    if progress:
        progress(length - 16)


def _run(threads: int, segments: Sequence[_Segment], work: Callable[[_Segment, bytearray], None]) -> None:
    """Run `work` over the segments on several threads; the first error ends all and is raised."""
    if not segments:
        return
    waiting = iter(segments)
    lock = threading.Lock()
    errors: list[BaseException] = []
    size = max(segment.reader.segment_bytes for segment in segments) + 16

    def drain() -> None:
        buffer = bytearray(size)
        while not errors:
            with lock:
                segment = next(waiting, None)
            if segment is None:
                return
            try:
                work(segment, buffer)
            except BaseException as exc:  # noqa: BLE001 - carried to the caller's thread below
                errors.append(exc)

    others = [threading.Thread(target=drain) for _ in range(min(threads, len(segments)) - 1)]
    for thread in others:
        thread.start()
    drain()
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]
