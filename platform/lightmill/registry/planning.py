"""What to read of which blob: pure arithmetic, no store and no key.

Bytes that are wanted fall into segments; neighbouring segments make one run, which a remote store serves with
one request. A run holds about 8 MiB of plaintext, bridges gaps below 1 MiB, and a blob is over-read by less than
2 MiB because of gaps. A tensor of N bytes in one blob therefore costs N bytes, the rest of its first and last
segment (below 2 MiB together), 128 bytes of header and 16 bytes a segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lightmill.errors import IntegrityError
from lightmill.records.assets import BlobEntry
from lightmill.registry.names import blob_name
from lightmill.vault import HEADER_BYTES, SEGMENT_BYTES, sealed_size
from lightmill.vault.blob import TAG_BYTES

PART_BYTES = 8 << 20
GAP_BYTES = 1 << 20
OVERREAD_BYTES = 2 << 20
_SEGMENT_SIZES = (SEGMENT_BYTES, *(1 << n for n in range(16, 27) if 1 << n != SEGMENT_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where plaintext goes: bytes [offset, offset + length) of blob `blob` to `out`."""

    blob: str
    offset: int
    out: memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One wanted segment: bytes [offset, offset + length) of the object, and where its plaintext goes.

    `outs` are (start within the plaintext, destination).
    """

    index: int
    offset: int
    length: int
    outs: tuple[tuple[int, memoryview], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Bytes [offset, offset + length) of the object: one request. The first run of a blob holds its header."""

    offset: int
    length: int
    cuts: tuple[Cut, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobPlan:
    """What to read of one blob; `segment_bytes` and `segments` follow from the sizes that the manifest promises."""

    entry: BlobEntry
    name: str
    segment_bytes: int
    segments: int
    runs: tuple[Run, ...]

    @property
    def read_bytes(self) -> int:
        """How much of the object is read."""
        return sum(run.length for run in self.runs)


def plan_blobs(blobs: Mapping[str, BlobEntry], targets: Sequence[Target]) -> Iterator[BlobPlan]:
    """Yield the plan of every blob that a target needs, in the order in which the targets first need them.

    Raises:
        IntegrityError: A target lies outside its blob, or the manifest's sizes fit no blob.
    """
    by_blob: dict[str, list[Target]] = {}
    for target in targets:
        if target.out.nbytes:
            by_blob.setdefault(target.blob, []).append(target)
    for blob, wanted in by_blob.items():
        entry, name = blobs.get(blob), blob_name(blob)
        if entry is None or any(t.offset < 0 or t.offset + t.out.nbytes > entry.length for t in wanted):
            raise IntegrityError(f"A manifest asks for bytes that object {name} does not have; it is damaged.")
        segment_bytes = _segment_bytes(entry)
        cuts = _cuts(entry, segment_bytes, wanted)
        yield BlobPlan(
            entry=entry,
            name=name,
            segment_bytes=segment_bytes,
            segments=max(1, -(-entry.length // segment_bytes)),
            runs=tuple(coalesce(cuts)),
        )


def coalesce(cuts: Sequence[Cut]) -> Iterator[Run]:
    """Join sorted segments into runs; the header counts as the beginning of the first."""
    start, end, filled, spare = 0, HEADER_BYTES, 0, OVERREAD_BYTES
    held: list[Cut] = []
    for cut in cuts:
        gap = cut.offset - end
        if filled >= PART_BYTES or gap >= min(GAP_BYTES, spare):
            yield Run(offset=start, length=end - start, cuts=tuple(held))
            start, filled, held = cut.offset, 0, []
        else:
            spare -= gap
        held.append(cut)
        end = cut.offset + cut.length
        filled += cut.length - TAG_BYTES
    yield Run(offset=start, length=end - start, cuts=tuple(held))


def _segment_bytes(entry: BlobEntry) -> int:
    """Return the segment size that makes `length` bytes of plaintext an object of `size` bytes.

    Two sizes never give the same object, unless it is one segment; then any of them will do.
    """
    for segment_bytes in _SEGMENT_SIZES:
        if sealed_size(entry.length, segment_bytes) == entry.size:
            return segment_bytes
    raise IntegrityError(f"A manifest gives object {blob_name(entry.id)} sizes that no blob has; it is damaged.")


def _cuts(entry: BlobEntry, segment_bytes: int, targets: Sequence[Target]) -> list[Cut]:
    """Cut the targets at the segment borders, and sort by segment."""
    outs: dict[int, list[tuple[int, memoryview]]] = {}
    for target in targets:
        done = 0
        while done < target.out.nbytes:
            index, within = divmod(target.offset + done, segment_bytes)
            length = min(segment_bytes - within, target.out.nbytes - done)
            outs.setdefault(index, []).append((within, target.out[done : done + length]))
            done += length
    return [
        Cut(
            index=index,
            offset=HEADER_BYTES + index * (segment_bytes + TAG_BYTES),
            length=min(segment_bytes, entry.length - index * segment_bytes) + TAG_BYTES,
            outs=tuple(outs[index]),
        )
        for index in sorted(outs)
    ]
