"""What the registry's benchmarks share: a published model on a real disk, memory that is used again, timing in turn.

The measuring trap: some machines give freed pages back to their host, and then the first touch of memory costs more
than anything that is to be compared. Here every loader that can fills one arena that was touched before ("reused
arena"). A peer that allocates by itself is compared with ours into fresh memory, and the figure says so.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lightmill.models.answers import signature_of
from lightmill.records.assets import ModelCard
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.signature import Architecture, Preprocessing, TensorSpec
from lightmill.registry import Content, OpenVersion, Registry, initialize_store
from lightmill.registry.tensors import seal_model, tensor_bytes
from lightmill.storage import BlobStore, LocalStore
from lightmill.vault import KeyRing

MIB = 1 << 20
THREADS = 2
QUICK = "--quick" in sys.argv
MODEL_BYTES = 256 * MIB if QUICK else 1024 * MIB
RUNS = 7
TRAP = "reused arena"


def make_state(size: int = MODEL_BYTES, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a model of about `size` bytes: layers of 16 MiB matrices with small vectors beside them, float16."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    for layer in range(size // (32 * MIB)):
        for part in ("attention", "mlp"):
            bits = torch.randint(-(1 << 62), 1 << 62, (2 * MIB,), generator=generator)
            state[f"layers.{layer}.{part}.weight"] = bits.view(torch.float16).reshape(2048, 4096)
            state[f"layers.{layer}.{part}.bias"] = bits[:1024].view(torch.float16).clone()
    return state


def total_bytes(state: dict[str, torch.Tensor]) -> int:
    """Return the size of all tensors."""
    return sum(value.nbytes for value in state.values())


def card() -> ModelCard:
    """Return a card; no benchmark looks at it."""
    return ModelCard(
        architecture=Architecture(name="logistic", arguments={"inputs": 4, "classes": 3}),
        preprocessing=Preprocessing(),
        signature=signature_of(TensorSpec(name="x", datatype="FP32", shape=(4,)), 3),
        classes=("a", "b", "c"),
        metrics={},
    )


def new_registry(store: BlobStore, folder: Path) -> Registry:
    """Return a registry of its own on `store`, with a key ring in `folder`."""
    path = folder / "keys" / "ring.json"
    ring = KeyRing.open(path) if path.exists() else KeyRing.create(path)
    return Registry(store, ring, "default", initialize_store(store))


def publish(
    registry: Registry, state: dict[str, torch.Tensor], name: str = "m", model: ModelCard | None = None
) -> VersionId:
    """Publish a model as a user would, without a parent."""
    draft = registry.begin(AssetKind.MODEL, name)
    sealed = seal_model(draft, state)
    content = Content(
        files=(sealed.file,),
        tensors=sealed.tensors.tensors,
        safetensors_header=sealed.header,
        blobs=sealed.tensors.blobs,
        model=model or card(),
    )
    return registry.commit(draft, content).id


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A version on a store in a folder of this disk, and the state that it holds."""

    folder: Path
    registry: Registry
    id: VersionId
    state: dict[str, torch.Tensor]

    def open(self) -> OpenVersion:
        """Open the version."""
        return self.registry.open(self.id)

    def blob_paths(self) -> list[Path]:
        """Return the files of its blobs."""
        store = self.registry.store
        assert isinstance(store, LocalStore)
        return [store.path(f"b/{blob.id[:2]}/{blob.id}") for blob in self.open().manifest.blobs]


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a folder on this checkout's disk (not in memory), and remove it."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
        yield Path(folder)


@contextmanager
def published(size: int = MODEL_BYTES) -> Iterator[Published]:
    """Publish a model in a folder of its own."""
    with scratch() as folder:
        state = make_state(size)
        registry = new_registry(LocalStore(folder / "store"), folder)
        yield Published(folder=folder, registry=registry, id=publish(registry, state), state=state)


class Arena:
    """Memory for every tensor of a state, touched once and used again by every loader."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        size = sum(-(-value.nbytes // 4096) * 4096 for value in state.values())
        self.memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory.madvise(mmap.MADV_HUGEPAGE)
        whole = torch.frombuffer(self.memory, dtype=torch.uint8)
        whole.fill_(1)
        self.tensors: dict[str, torch.Tensor] = {}
        offset = 0
        for name, value in state.items():
            part = whole[offset : offset + value.nbytes]
            self.tensors[name] = part.view(value.dtype).view(value.shape)
            offset += -(-value.nbytes // 4096) * 4096
        self.outs = {name: tensor_bytes(value) for name, value in self.tensors.items()}
        self.view = memoryview(self.memory)

    def check(self, state: dict[str, torch.Tensor]) -> None:
        """Stop the benchmark if the arena does not hold the state, and spoil it for the next loader."""
        for name, value in state.items():
            # As integers: random bits are NaN now and then.
            if not torch.equal(self.tensors[name].view(torch.int16), value.view(torch.int16)):
                raise SystemExit(f"tensor {name} was not loaded")
        for value in self.tensors.values():
            value.view(torch.int16).view(-1)[::2048] = 0


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def on_threads(count: int, work: Callable[[int], None]) -> None:
    """Call `work` with 0, 1 ... on threads of their own."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, count)]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()


def in_turn(loaders: dict[str, Callable[[], object]], runs: int = RUNS) -> dict[str, list[float]]:
    """Time each loader in turn, `runs` times after one round that does not count; return seconds."""
    found: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(runs + 1):
        for name, loader in loaders.items():
            took = seconds(loader)
            if turn:
                found[name].append(took)
    return found


def speeds(size: int, times: list[float]) -> list[float]:
    """Return GB/s."""
    return [size / 1e9 / took for took in times]


def drop_from_page_cache(paths: list[Path]) -> None:
    """Make the next read come from the disk: posix_fadvise(DONTNEED) on files that are durable."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def machine() -> dict[str, object]:
    """Return what bounds any encrypted load here: AES-256-GCM of one core, and whether it has wide AES (VAES)."""
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    cipher, plain = AESGCM(bytes(32)), bytes(MIB)
    sealed, out = cipher.encrypt(bytes(12), plain, None), memoryview(bytearray(MIB))
    best = min(seconds(lambda: cipher.decrypt_into(bytes(12), sealed, None, out)) for _ in range(50))
    return {"aes_gb_s_a_core": round(MIB / 1e9 / best, 2), "vaes": " vaes" in flags}
