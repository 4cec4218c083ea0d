"""Sealing items of bytes into blobs on the store: encryption, digest and writing overlap on several threads.

Each thread works on one blob at a time in memory that it uses again (64 MiB for the object, up to 16 MiB to join
small items), so the extra memory is about threads times 80 MiB, whatever the size of the model.

A blob whose plaintext has the keyed fingerprint of one in the parent version is not written again: its entry, key
included, goes into the new manifest. A collector may remove that blob between the look-up and the commit, so the
publisher looks again after its commit (`restore`) and makes the very same bytes again: same key, same salt, same
plaintext, and only if the digest agrees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.records.assets import BlobEntry, Piece
from lightmill.registry.content import key_bytes, put_if_absent
from lightmill.registry.names import blob_name
from lightmill.registry.packing import Part, pack
from lightmill.registry.workers import Gauge, Progress, cpu_threads, run_jobs
from lightmill.storage import BlobStore
from lightmill.vault import HEADER_BYTES, BlobContext, BlobReader, fingerprinter, new_key, seal_into, sealed_size

SALT = slice(20, 52)
"""Where the salt stands in a blob's header; docs/format.md, section 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reused:
    """A blob of the parent that this version refers to, and what makes it again: salt, segments, plaintext."""

    entry: BlobEntry
    salt: bytes = field(repr=False)
    segment_bytes: int
    runs: tuple[memoryview, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """Blobs on the store, the pieces of every item, and which blobs are the parent's."""

    blobs: tuple[BlobEntry, ...]
    pieces: tuple[tuple[Piece, ...], ...]
    reused: tuple[Reused, ...]


def seal_threads() -> int:
    """Return how many threads seal by default: two a CPU, since each waits for disk or network; at most eight."""
    return min(8, 2 * cpu_threads())


def seal_items(
    store: BlobStore,
    context: BlobContext,
    dedup_key: bytes,
    items: Sequence[memoryview],
    *,
    layers: Sequence[str] | None = None,
    parent: Iterable[BlobEntry] = (),
    threads: int | None = None,
    progress: Progress | None = None,
) -> Sealed:
    """Seal `items` into blobs on the store, except what the parent's blobs hold already.

    Args:
        store: Where to.
        context: What the blobs are for; the parent's must be the same.
        dedup_key: The asset's fingerprint key.
        items: The plaintext; it must not change before the commit.
        layers: What each item belongs to; see `packing`.
        parent: Blobs of an earlier version of the same asset.
        threads: How many threads work; by default `seal_threads`.
        progress: Called with (bytes done, bytes in all).

    Raises:
        UnavailableError: The store cannot be written. Blobs that were written are named by nothing.
    """
    parts = pack([item.nbytes for item in items], layers)
    by_blob: dict[int, list[Part]] = {}
    for part in parts:
        by_blob.setdefault(part.blob, []).append(part)
    known = {(entry.dedup, entry.length): entry for entry in parent}
    gauge = Gauge(sum(item.nbytes for item in items), progress)
    entries: dict[int, BlobEntry] = {}
    reused: dict[int, Reused] = {}

    def new_worker() -> Callable[[int], None]:
        sealer = _Sealer(store, context, dedup_key, known)

        def work(number: int) -> None:
            runs = tuple(items[p.item][p.start : p.start + p.length] for p in by_blob[number])
            entries[number], old = sealer.seal(runs)
            if old:
                reused[number] = old
            gauge.add(entries[number].length)

        return work

    run_jobs(min(threads or seal_threads(), len(by_blob) or 1), by_blob, new_worker)
    pieces: list[list[Piece]] = [[] for _ in items]
    for part in parts:
        pieces[part.item].append(Piece(blob=entries[part.blob].id, offset=part.offset, length=part.length))
    return Sealed(
        blobs=tuple({entries[number].id: entries[number] for number in by_blob}.values()),
        pieces=tuple(tuple(found) for found in pieces),
        reused=tuple(reused[number] for number in by_blob if number in reused),
    )


def restore(store: BlobStore, context: BlobContext, reused: Sequence[Reused], threads: int | None = None) -> int:
    """Look the reused blobs up and make those again that are gone; return how many were. Call it after the commit.

    Raises:
        IntegrityError: A blob is gone and its plaintext has changed since it was sealed, so it cannot be made again.
        UnavailableError: The store does not answer; the call may be repeated.
    """
    made: list[str] = []

    def work(old: Reused) -> None:
        name = blob_name(old.entry.id)
        try:
            store.head(name)
        except NotFoundError:
            put_if_absent(store, name, _again(old, context))
            made.append(name)

    run_jobs(min(threads or cpu_threads(), len(reused) or 1), reused, lambda: work)
    return len(made)


def _again(old: Reused, context: BlobContext) -> memoryview:
    room = bytearray(old.entry.size)
    plaintext = old.runs[0] if len(old.runs) == 1 else memoryview(b"".join(old.runs))
    key = key_bytes(old.entry)
    sealed = seal_into(memoryview(room), plaintext, key, context, segment_bytes=old.segment_bytes, salt=old.salt)
    if hashlib.sha256(sealed).hexdigest() != old.entry.id:
        raise IntegrityError(
            f"Object {blob_name(old.entry.id)} is gone and the tensors in memory have changed since they were sealed; "
            "publish this version again."
        )
    return sealed


class _Sealer:
    """Seals one blob after the other in the same memory."""

    def __init__(
        self,
        store: BlobStore,
        context: BlobContext,
        dedup_key: bytes,
        known: Mapping[tuple[str, int], BlobEntry],
    ) -> None:
        self._store = store
        self._context = context
        self._dedup_key = dedup_key
        self._known = known
        self._joined = bytearray()
        self._sealed = bytearray()

    def seal(self, runs: tuple[memoryview, ...]) -> tuple[BlobEntry, Reused | None]:
        """Return the entry of the blob that holds these runs, and whether it is the parent's."""
        plaintext = self._join(runs)
        prints, digest = fingerprinter(self._dedup_key), hashlib.sha256()
        looks = bool(self._known)  # then the whole plaintext's fingerprint is needed first
        if looks:
            prints.update(plaintext)
            entry = self._known.get((prints.hexdigest(), plaintext.nbytes))
            header = self._header(entry) if entry else None
            if entry and header:
                return entry, Reused(entry=entry, salt=header[SALT], segment_bytes=1 << header[10], runs=runs)

        def seen(plain: memoryview, made: memoryview) -> None:
            digest.update(made)
            if not looks:
                prints.update(plain)

        key = new_key()
        size = sealed_size(plaintext.nbytes)
        if len(self._sealed) < size:
            self._sealed = bytearray(size)
        sealed = seal_into(memoryview(self._sealed), plaintext, key, self._context, seen=seen)
        id, dedup = digest.hexdigest(), prints.hexdigest()
        put_if_absent(self._store, blob_name(id), sealed)
        return BlobEntry(id=id, key=key.hex(), length=plaintext.nbytes, size=size, dedup=dedup), None

    def _join(self, runs: tuple[memoryview, ...]) -> memoryview:
        if len(runs) == 1:
            return runs[0]
        length = sum(run.nbytes for run in runs)
        if len(self._joined) < length:
            self._joined = bytearray(length)
        joined, done = memoryview(self._joined)[:length], 0
        for run in runs:
            joined[done : done + run.nbytes] = run
            done += run.nbytes
        return joined

    def _header(self, entry: BlobEntry) -> bytes | None:
        """Return the header of the parent's blob if it is there and sound; None: seal it anew."""
        name = blob_name(entry.id)
        try:
            if self._store.head(name) != entry.size:
                return None
            header = self._store.get_range(name, 0, HEADER_BYTES)
            BlobReader.parse(header, key_bytes(entry), self._context, entry.size, entry.length, name=name)
        except (NotFoundError, IntegrityError):
            return None
        return bytes(header)
