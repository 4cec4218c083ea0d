"""Where the bytes of tensors and files lie: which blob, which offset.

A blob holds at most 64 MiB of plaintext. A tensor of 8 MiB or more starts a blob of its own; smaller ones
are packed together; a longer one is cut into several pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BLOB_BYTES = 64 << 20
OWN_BLOB_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Bytes [start, start + length) of item `item`, placed at `offset` of blob number `blob`."""

    item: int
    start: int
    length: int
    blob: int
    offset: int


def pack(sizes: Sequence[int]) -> list[Part]:
    """Place items of these sizes (bytes) into blobs, in order; an empty item takes no part."""
    parts: list[Part] = []
    blob, filled = 0, 0
    for item, size in enumerate(sizes):
        if filled and (size >= OWN_BLOB_BYTES or filled + size > BLOB_BYTES):
            blob, filled = blob + 1, 0
        start = 0
        while start < size:
            if filled == BLOB_BYTES:
                blob, filled = blob + 1, 0
            length = min(size - start, BLOB_BYTES - filled)
            parts.append(Part(item=item, start=start, length=length, blob=blob, offset=filled))
            start, filled = start + length, filled + length
        if size >= OWN_BLOB_BYTES:
            blob, filled = blob + 1, 0
    return parts
