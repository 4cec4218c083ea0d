"""Which part of which tensor a worker holds, who writes it, and how any other division reads it again.

A part is a box: where it begins and how large it is in each dimension. Tensors that several workers hold alike are
written by one of them. Reading takes what overlaps, so that a checkpoint of N workers loads on any other number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lightmill.errors import IntegrityError
from lightmill.registry import OpenVersion
from lightmill.registry.tensors import load_slices, load_tensors

_SUFFIX = re.compile(r"@(\d+(?:,\d+)*)$")
_WHOLE = (torch.Tensor, torch.nn.Parameter)
Box = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A box of a tensor whose shape is `shape`."""

    name: str
    offsets: Box
    sizes: Box
    shape: Box
    size_bytes: int

    @property
    def entry(self) -> str:
        """The name it is sealed under: the tensor's own if it is the whole, else with where it begins."""
        return self.name if self.sizes == self.shape else f"{self.name}@{','.join(map(str, self.offsets))}"


def chunk_of(name: str, value: torch.Tensor) -> tuple[Chunk, torch.Tensor]:
    """Return the part of a tensor that this worker holds, and its memory."""
    if type(value) in _WHOLE:
        sizes = tuple(value.shape)
        whole = Chunk(name=name, offsets=(0,) * value.ndim, sizes=sizes, shape=sizes, size_bytes=value.nbytes)
        return whole, value
    # Imported here, since it takes 0.8 s, and most runs divide no tensor.
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if not isinstance(value, DTensor):
        raise TypeError(f"{name} is of type {type(value).__name__}, neither whole nor divided")
    local = value.to_local()
    sizes, offsets = compute_local_shape_and_global_offset(value.shape, value.device_mesh, value.placements)
    part = Chunk(
        name=name, offsets=tuple(offsets), sizes=tuple(sizes), shape=tuple(value.shape), size_bytes=local.nbytes
    )
    return part, local


def owned(held: Sequence[Sequence[Chunk]], rank: int) -> set[str]:
    """Return the entries that a worker writes, so that each is written once and all write about as much.

    Args:
        held: What each worker holds.
        rank: The worker.
    """
    holders: dict[str, list[int]] = {}
    sizes: dict[str, int] = {}
    for holder, chunks in enumerate(held):
        for chunk in chunks:
            if chunk.size_bytes or math.prod(chunk.shape) == 0:
                holders.setdefault(chunk.entry, []).append(holder)
                sizes[chunk.entry] = chunk.size_bytes
    load = [0] * len(held)
    mine = set()
    for entry in sorted(holders, key=lambda entry: (-sizes[entry], entry)):
        writer = min(holders[entry], key=lambda holder: (load[holder], holder))
        load[writer] += sizes[entry]
        if writer == rank:
            mine.add(entry)
    return mine


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A sealed part: its entry, where it begins and how large it is."""

    entry: str
    offsets: Box
    sizes: Box


def stored_chunks(version: OpenVersion) -> dict[str, list[Stored]]:
    """Return the parts of each tensor of a version."""
    found: dict[str, list[Stored]] = {}
    for entry in version.manifest.tensors:
        suffix = _SUFFIX.search(entry.name)
        name = entry.name[: suffix.start()] if suffix else entry.name
        offsets = tuple(map(int, suffix.group(1).split(","))) if suffix else (0,) * len(entry.shape)
        found.setdefault(name, []).append(Stored(entry=entry.name, offsets=offsets, sizes=entry.shape))
    return found


def read_whole(version: OpenVersion, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return whole tensors; see `read_chunks` for the errors."""
    stored = stored_chunks(version)
    wanted: dict[str, tuple[Chunk, torch.Tensor]] = {}
    whole: list[str] = []
    for name in names:
        parts = stored.get(name, [])
        if [part.entry for part in parts] == [name]:
            whole.append(name)
            continue
        shape = _extent(parts)
        first = load_slices(version, {parts[0].entry: (0, 0)})[parts[0].entry]
        out = torch.empty(shape, dtype=first.dtype)
        wanted[name] = (Chunk(name=name, offsets=(0,) * len(shape), sizes=shape, shape=shape, size_bytes=0), out)
    read_chunks(version, wanted)
    return {**load_tensors(version, whole), **{name: out for name, (_, out) in wanted.items()}}


def read_chunks(version: OpenVersion, wanted: Mapping[str, tuple[Chunk, torch.Tensor]]) -> None:
    """Fill the parts that a worker holds from whatever parts were sealed.

    Raises:
        IntegrityError: The version lacks a tensor or a part of it, or it has another shape.
    """
    stored = stored_chunks(version)
    rows: dict[str, tuple[int, int]] = {}
    scalars: list[str] = []
    copies: list[tuple[str, torch.Tensor, tuple[slice, ...], tuple[slice, ...]]] = []
    for name, (chunk, out) in wanted.items():
        parts = stored.get(name, [])
        if not parts or _extent(parts) != chunk.shape:
            had = list(_extent(parts)) if parts else "nothing"
            raise IntegrityError(f"{version.id} holds {had} for {name!r}, which is {list(chunk.shape)} here.")
        covered = 0
        for part in parts:
            there, here = _overlap(part, chunk)
            volume = math.prod(one.stop - one.start for one in there)
            if not volume:
                continue
            covered += volume
            if there:
                rows[part.entry] = (there[0].start, there[0].stop)
                there = (slice(0, there[0].stop - there[0].start), *there[1:])
            else:
                scalars.append(part.entry)
            copies.append((part.entry, out, there, here))
        if covered != math.prod(chunk.sizes):
            raise IntegrityError(f"{version.id} lacks a part of {name!r}; it was not sealed by a run.")
    loaded = load_slices(version, rows) | load_tensors(version, scalars)
    with torch.no_grad():
        for entry, out, there, here in copies:
            out[here].copy_(loaded[entry][there]) if here else out.copy_(loaded[entry])


def _extent(parts: Sequence[Stored]) -> Box:
    """Return the shape of a tensor that these are the parts of."""
    ends = [[offset + size for offset, size in zip(part.offsets, part.sizes, strict=True)] for part in parts]
    return tuple(max(axis) for axis in zip(*ends, strict=True)) if ends and ends[0] else ()


def _overlap(part: Stored, chunk: Chunk) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where the common box lies in a sealed part, and in the part that is wanted."""
    there, here = [], []
    for axis in range(len(chunk.sizes)):
        start = max(part.offsets[axis], chunk.offsets[axis])
        stop = min(part.offsets[axis] + part.sizes[axis], chunk.offsets[axis] + chunk.sizes[axis])
        stop = max(start, stop)
        there.append(slice(start - part.offsets[axis], stop - part.offsets[axis]))
        here.append(slice(start - chunk.offsets[axis], stop - chunk.offsets[axis]))
    return tuple(there), tuple(here)
