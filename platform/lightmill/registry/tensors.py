"""Torch tensors in and out of the registry: sealed from a state dict, loaded straight into tensor memory."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import torch

from lightmill.errors import IntegrityError, RequestError
from lightmill.records.assets import FileEntry, Piece, TensorEntry
from lightmill.registry.draft import Draft, PlainTensor, SealedTensors
from lightmill.registry.version import SAFETENSORS_FILE, OpenVersion, TensorRange
from lightmill.registry.workers import Progress

_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_MAPPED_BYTES = 4 << 20
_BATCH_BYTES = 256 << 20
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a contiguous CPU tensor without a copy; writing to them writes to the tensor."""
    return (
        memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]
        if tensor.numel()
        else memoryview(b"")
    )


def plain_tensors(state: Mapping[str, torch.Tensor]) -> list[PlainTensor]:
    """Return the tensors of a state dict ready to seal, in the order of safetensors: wide dtypes first, by name.

    Raises:
        RequestError: A tensor has a dtype that safetensors does not know.
    """
    found = []
    for name, value in state.items():
        if value.dtype not in _NAMES:
            raise RequestError(f"Tensor {name!r} has dtype {value.dtype}, which safetensors cannot hold.")
        tensor = value.detach().cpu().contiguous()
        found.append((-tensor.element_size(), name, tensor))
    found.sort(key=lambda item: item[:2])
    return [
        PlainTensor(name=name, dtype=_NAMES[t.dtype], shape=tuple(t.shape), data=tensor_bytes(t))
        for _, name, t in found
    ]


def safetensors_header(tensors: list[PlainTensor]) -> bytes:
    """Return the JSON header of the safetensors file of these tensors, padded to 8 bytes, without its length."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.data.nbytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    data = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return data + b" " * (-len(data) % 8)


def safetensors_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the safetensors file of a state dict, as the file entry of a sealed model has it.

    Raises:
        RequestError: A tensor has a dtype that safetensors does not know.
    """
    tensors = plain_tensors(state)
    return _file_digest(safetensors_header(tensors), tensors)


def _file_digest(header: bytes, tensors: list[PlainTensor]) -> str:
    digest = hashlib.sha256(struct.pack("<Q", len(header)) + header)
    for tensor in tensors:
        digest.update(tensor.data)
    return digest.hexdigest()


def _file_entry(header: bytes, tensors: list[PlainTensor], sealed: SealedTensors, digest: str) -> FileEntry:
    """Return the entry of `model.safetensors`: its header stands in the manifest, its data in the tensors' pieces."""
    pieces: tuple[Piece, ...] = tuple(piece for entry in sealed.tensors for piece in entry.pieces)
    return FileEntry(
        path=SAFETENSORS_FILE,
        size=8 + len(header) + sum(tensor.data.nbytes for tensor in tensors),
        sha256=digest,
        pieces=pieces,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedModel:
    """A state dict on the store, ready for `Content`: its tensors, its safetensors file and the file's header."""

    tensors: SealedTensors
    file: FileEntry
    header: str


def seal_model(
    draft: Draft,
    state: Mapping[str, torch.Tensor],
    parent: OpenVersion | None = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> SealedModel:
    """Seal a state dict, and digest its safetensors file meanwhile; see `Draft.seal_tensors` for the errors."""
    tensors = plain_tensors(state)
    header = safetensors_header(tensors)
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(_file_digest, header, tensors)
        sealed = draft.seal_tensors(tensors, parent, threads=threads, progress=progress)
        file = _file_entry(header, tensors, sealed, digest.result())
    return SealedModel(tensors=sealed, file=file, header=encode_header(header))


def encode_header(header: bytes) -> str:
    """Return the header as the manifest carries it."""
    return base64.b64encode(header).decode()


def empty_tensor(entry: TensorEntry, shape: tuple[int, ...] | None = None) -> torch.Tensor:
    """Return an uninitialized CPU tensor of the entry's dtype and its shape, or another.

    A large one lies in huge pages, which makes the first touch up to twice as fast, and stays out of core dumps.

    Raises:
        IntegrityError: The manifest names a dtype that this version does not know.
    """
    if entry.dtype not in _DTYPES:
        raise IntegrityError(f"Tensor {entry.name!r} has the unknown dtype {entry.dtype!r}.")
    dtype, shape = _DTYPES[entry.dtype], entry.shape if shape is None else shape
    size = math.prod(shape) * dtype.itemsize
    if size < _MAPPED_BYTES:
        return torch.empty(shape, dtype=dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for advice in (mmap.MADV_HUGEPAGE, mmap.MADV_DONTDUMP):
        with suppress(OSError):  # advice: a kernel without it loses speed, nothing else
            memory.madvise(advice)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def load_tensors(
    version: OpenVersion,
    names: Sequence[str] | None = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, torch.Tensor]:
    """Return tensors of a version (all, or those named), decrypted straight into their memory.

    Only the segments of the tensors that are named are read; see `planning` for how much that is.

    Raises:
        IntegrityError: Stored bytes are not what was written; no tensor is returned.
        NotFoundError: The version holds no tensor of such a name.
    """
    wanted = names if names is not None else [entry.name for entry in version.manifest.tensors]
    tensors = {name: empty_tensor(version.tensor(name)) for name in wanted}
    outs = {name: tensor_bytes(tensor) for name, tensor in tensors.items()}
    version.load_into(outs, threads=threads, progress=progress)
    return tensors


def load_slices(
    version: OpenVersion,
    rows: Mapping[str, tuple[int, int]],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, torch.Tensor]:
    """Return rows [start, stop) along dimension 0 of each tensor named: what one shard of a model needs.

    Args:
        version: The version.
        rows: From name to (start, stop).
        threads: How many threads read and decrypt; by default what suits CPUs and store.
        progress: Called with (bytes done, bytes in all).

    Raises:
        RequestError: A tensor has no dimension 0, or not these rows.
        IntegrityError: Stored bytes are not what was written; no tensor is returned.
        NotFoundError: The version holds no tensor of such a name.
    """
    tensors: dict[str, torch.Tensor] = {}
    ranges: list[TensorRange] = []
    for name, (start, stop) in rows.items():
        entry = version.tensor(name)
        if not entry.shape or not 0 <= start <= stop <= entry.shape[0]:
            raise RequestError(
                f"Tensor {name!r} of {version.id} is {list(entry.shape)}; it has no rows {start}:{stop}."
            )
        tensors[name] = empty_tensor(entry, (stop - start, *entry.shape[1:]))
        row_bytes = math.prod(entry.shape[1:]) * tensors[name].element_size()
        ranges.append(TensorRange(name=name, start=start * row_bytes, out=tensor_bytes(tensors[name])))
    version.load_ranges(ranges, threads=threads, progress=progress)
    return tensors


def load_slice(version: OpenVersion, name: str, start: int, stop: int) -> torch.Tensor:
    """Return rows [start, stop) along dimension 0 of one tensor; see `load_slices`."""
    return load_slices(version, {name: (start, stop)})[name]


def load_into_module(
    version: OpenVersion,
    module: torch.nn.Module,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Fill a module's parameters and buffers in place.

    What is contiguous and on the CPU is decrypted straight into its memory; the rest comes through CPU memory, a
    few tensors at a time (256 MiB, or one tensor if that is larger). Nobody should use the module meanwhile.

    Args:
        version: The version.
        module: Its names, dtypes and shapes must be the version's.
        threads: How many threads read and decrypt; by default what suits CPUs and store.
        progress: Called with (bytes done, bytes in all).

    Raises:
        IntegrityError: Stored bytes are not what was written (the module is zeroed), or the module's names,
            dtypes or shapes are not the version's (the module is left alone).
        UnavailableError: The store does not answer; the module is zeroed.
    """
    state = module.state_dict()
    check_fit(version, state)
    try:
        _fill(version, state, threads, progress)
    except BaseException:
        with torch.no_grad():
            for value in state.values():
                value.zero_()
        raise


def check_fit(version: OpenVersion, state: Mapping[str, torch.Tensor]) -> None:
    """Check that the names, dtypes and shapes of a state dict, which may be on the meta device, are the version's.

    Raises:
        IntegrityError: They are not.
    """
    entries = {entry.name: entry for entry in version.manifest.tensors}
    if set(state) != set(entries):
        differ = sorted(set(state) ^ set(entries))
        raise IntegrityError(f"{version.id} and its architecture differ in tensors {differ[:4]}.")
    for name, value in state.items():
        entry = entries[name]
        if tuple(value.shape) != entry.shape or _NAMES.get(value.dtype) != entry.dtype:
            raise IntegrityError(
                f"Tensor {name!r} of {version.id} is {entry.dtype} {list(entry.shape)}; the architecture has "
                f"{value.dtype} {list(value.shape)}."
            )


def _fill(
    version: OpenVersion, state: Mapping[str, torch.Tensor], threads: int | None, progress: Progress | None
) -> None:
    total = sum(value.nbytes for value in state.values())
    direct = {n: v for n, v in state.items() if v.device.type == "cpu" and v.is_contiguous()}
    outs = {name: tensor_bytes(value) for name, value in direct.items()}
    version.load_into(outs, threads=threads, progress=_shifted(progress, 0, total))
    done = sum(value.nbytes for value in direct.values())
    for names in _batches({name: value.nbytes for name, value in state.items() if name not in direct}):
        loaded = load_tensors(version, names, threads=threads, progress=_shifted(progress, done, total))
        for name, value in loaded.items():
            with torch.no_grad():
                state[name].copy_(value)
            done += value.nbytes


def _batches(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield names, as many at a time as fit in memory set aside for them."""
    batch, filled = [], 0
    for name, size in sizes.items():
        if batch and filled + size > _BATCH_BYTES:
            yield batch
            batch, filled = [], 0
        batch.append(name)
        filled += size
    if batch:
        yield batch


def _shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Return a callback for one of several loads, of which `before` bytes are done."""
    return None if progress is None else lambda done, _: progress(before + done, total)
