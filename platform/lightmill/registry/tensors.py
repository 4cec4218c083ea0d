"""Torch tensors in and out of the registry: sealed from a state dict, loaded straight into tensor memory."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Mapping

import torch

from lightmill.errors import IntegrityError, RequestError
from lightmill.records.assets import FileEntry, Piece, TensorEntry
from lightmill.registry.content import LOAD_THREADS
from lightmill.registry.draft import PlainTensor, SealedTensors
from lightmill.registry.version import SAFETENSORS_FILE, OpenVersion

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


def safetensors_file(header: bytes, tensors: list[PlainTensor], sealed: SealedTensors) -> FileEntry:
    """Return the entry of `model.safetensors`: its header stands in the manifest, its data in the tensors' pieces."""
    digest = hashlib.sha256(struct.pack("<Q", len(header)) + header)
    for tensor in tensors:
        digest.update(tensor.data)
    pieces: tuple[Piece, ...] = tuple(piece for entry in sealed.tensors for piece in entry.pieces)
    return FileEntry(
        path=SAFETENSORS_FILE,
        size=8 + len(header) + sum(tensor.data.nbytes for tensor in tensors),
        sha256=digest.hexdigest(),
        pieces=pieces,
    )


def encode_header(header: bytes) -> str:
    """Return the header as the manifest carries it."""
    return base64.b64encode(header).decode()


def empty_tensor(entry: TensorEntry) -> torch.Tensor:
    """Return an uninitialized CPU tensor of the entry's dtype and shape.

    Raises:
        IntegrityError: The manifest names a dtype that this version does not know.
    """
    if entry.dtype not in _DTYPES:
        raise IntegrityError(f"Tensor {entry.name!r} has the unknown dtype {entry.dtype!r}.")
    return torch.empty(entry.shape, dtype=_DTYPES[entry.dtype])


def load_tensors(
    version: OpenVersion,
    names: list[str] | None = None,
    *,
    threads: int = LOAD_THREADS,
    progress: Callable[[int], None] | None = None,
) -> dict[str, torch.Tensor]:
    """Return tensors of a version (all, or those named), decrypted straight into their memory.

    Raises:
        IntegrityError: Stored bytes are not what was written; no tensor is returned.
    """
    wanted = names if names is not None else [entry.name for entry in version.manifest.tensors]
    tensors = {name: empty_tensor(version.tensor(name)) for name in wanted}
    outs = {name: tensor_bytes(tensor) for name, tensor in tensors.items()}
    version.load_into(outs, threads=threads, progress=progress)
    return tensors


def load_into_module(
    version: OpenVersion,
    module: torch.nn.Module,
    *,
    threads: int = LOAD_THREADS,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Fill a module's parameters and buffers in place, straight from the store when it is on the CPU.

    Raises:
        IntegrityError: Stored bytes are not what was written (the module is zeroed), or the module's names,
            dtypes or shapes are not the version's.
    """
    state = module.state_dict()
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
    try:
        _fill(version, state, threads, progress)
    except BaseException:
        with torch.no_grad():
            for value in state.values():
                value.zero_()
        raise


def _fill(
    version: OpenVersion, state: Mapping[str, torch.Tensor], threads: int, progress: Callable[[int], None] | None
) -> None:
    direct = {n: v for n, v in state.items() if v.device.type == "cpu" and v.is_contiguous()}
    version.load_into({name: tensor_bytes(value) for name, value in direct.items()}, threads=threads, progress=progress)
    rest = [name for name in state if name not in direct]
    for name, value in load_tensors(version, rest, threads=threads, progress=progress).items():
        with torch.no_grad():
            state[name].copy_(value)
