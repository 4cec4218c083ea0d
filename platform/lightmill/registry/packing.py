"""Where the bytes of tensors and files lie: which blob, which offset.

A blob holds at most 64 MiB of plaintext. A tensor of 8 MiB or more starts a blob of its own; a longer one is cut
into several pieces. Smaller ones are packed together, up to 16 MiB, and a pack of 1 MiB or more ends where a layer
ends: so a fine-tune that changes one layer changes that layer's blob and no other. Names and sizes alone decide, so
versions with the same tensors are packed alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BLOB_BYTES = 64 << 20
OWN_BLOB_BYTES = 8 << 20
PACK_BYTES = 16 << 20
LAYER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Bytes [start, start + length) of item `item`, placed at `offset` of blob number `blob`."""

    item: int
    start: int
    length: int
    blob: int
    offset: int


def layer_of(name: str) -> str:
    """Return the layer that a tensor's name tells: up to its last number, or all but its last part.

    `model.layers.3.mlp.up.weight` gives `model.layers.3`; `head.weight` and `head.bias` give `head`.
    """
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[-1] + 1] if numbers else parts[:-1])


def pack(sizes: Sequence[int], layers: Sequence[str] | None = None) -> list[Part]:
    """Place items of these sizes (bytes) into blobs, in order; an empty item takes no part.

    Args:
        sizes: Of the items.
        layers: What each item belongs to; without it there is nothing to keep apart.
    """
    parts: list[Part] = []
    blob, filled, layer = 0, 0, ""
    for item, size in enumerate(sizes):
        new_layer = layers is not None and layers[item] != layer and filled >= LAYER_BYTES
        if filled and size and (new_layer or size >= OWN_BLOB_BYTES or filled + size > PACK_BYTES):
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
        if layers is not None:
            layer = layers[item]
    return parts
