"""Safetensors files as streams: each byte is read once, in order, one tensor in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from lightmill.errors import RequestError
from lightmill.models.exchange.headers import LENGTH, Header, header_length, parse_header
from lightmill.records.assets import BlobEntry, FileEntry, Piece, TensorEntry
from lightmill.registry import Draft
from lightmill.registry.draft import PlainTensor
from lightmill.registry.version import SAFETENSORS_FILE

GROUP_BYTES = 64 << 20
"""Tensors are sealed in groups of at most this many bytes; a larger tensor is a group of its own."""

Sealed = Callable[[int], None]
"""Told how many more bytes have been sealed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFile:
    """A safetensors file to seal: the name it gets, its header's bytes, and its tensors in order."""

    path: str
    header: bytes
    data_bytes: int
    tensors: Iterator[PlainTensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedTensorFile:
    """What a version lists of a sealed safetensors file."""

    entry: FileEntry
    header: bytes
    tensors: tuple[TensorEntry, ...]
    blobs: tuple[BlobEntry, ...]


def read_header(file: BinaryIO, file_bytes: int | None, name: str, max_data_bytes: int | None = None) -> Header:
    """Read the header of a safetensors stream whose whole size is `file_bytes`, if that is known.

    Raises:
        RequestError: The stream does not begin with a good header, or announces more than `max_data_bytes`.
    """
    length = header_length(file.read(LENGTH.size), file_bytes, name)
    raw = file.read(length)
    if len(raw) != length:
        raise RequestError(f"{name} ends inside its header; copy it again.")
    header = parse_header(raw, None if file_bytes is None else file_bytes - LENGTH.size - length, name)
    if max_data_bytes is not None and header.data_bytes > max_data_bytes:
        raise RequestError(f"{name} announces {header.data_bytes} bytes of tensors, over the limit {max_data_bytes}.")
    return header


def read_tensors(file: BinaryIO, header: Header, name: str) -> Iterator[PlainTensor]:
    """Yield the tensors of a stream behind its header.

    Raises:
        RequestError: The stream ends early, or does not end with its last tensor.
    """
    for slot in header.slots:
        data = memoryview(bytearray(slot.nbytes))
        done = 0
        while done < slot.nbytes:
            count = file.readinto(data[done:])  # pyright: ignore[reportAttributeAccessIssue] - raw or buffered
            if not count:
                raise RequestError(f"{name} ends inside tensor {slot.name!r}; copy it again.")
            done += count
        yield PlainTensor(name=slot.name, dtype=slot.dtype, shape=slot.shape, data=data)
    if file.read(1):
        raise RequestError(f"{name} goes on after its last tensor; it was changed while it was read.")


def seal_tensor_file(draft: Draft, file: TensorFile, sealed: Sealed) -> SealedTensorFile:
    """Seal a safetensors file tensor by tensor, with memory for one group of tensors."""
    head = LENGTH.pack(len(file.header)) + file.header
    digest = hashlib.sha256(head)
    tensors: list[TensorEntry] = []
    blobs: list[BlobEntry] = []

    def seal(group: list[PlainTensor]) -> None:
        done = draft.seal_tensors(group)
        tensors.extend(done.tensors)
        blobs.extend(done.blobs)
        sealed(sum(tensor.data.nbytes for tensor in group))

    group: list[PlainTensor] = []
    size = 0
    for tensor in file.tensors:
        if group and size + tensor.data.nbytes > GROUP_BYTES:
            seal(group)
            group, size = [], 0
        digest.update(tensor.data)
        group.append(tensor)
        size += tensor.data.nbytes
    seal(group)
    pieces = [piece for entry in tensors for piece in entry.pieces]
    if file.path != SAFETENSORS_FILE:  # the manifest carries one header; those of shards lie in blobs
        lead = draft.seal_files({file.path: head})
        pieces = [*_pieces_of(lead.files), *pieces]
        blobs.extend(lead.blobs)
    entry = FileEntry(path=file.path, size=len(head) + file.data_bytes, sha256=digest.hexdigest(), pieces=tuple(pieces))
    return SealedTensorFile(entry=entry, header=file.header, tensors=tuple(tensors), blobs=tuple(blobs))


def _pieces_of(files: tuple[FileEntry, ...]) -> list[Piece]:
    return [piece for file in files for piece in file.pieces]
