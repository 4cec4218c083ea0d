"""How much is read: of one tensor, and of a store behind ten replicas of one node."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import torch

from benchmarks.figures import figure, note
from benchmarks.sealed_models import MIB, RUNS, Arena, Published, published
from lightmill.registry import Registry
from lightmill.registry.cache import CachingStore
from lightmill.registry.tensors import load_slice, load_tensors
from lightmill.storage import LocalStore
from tests.counting import CountingStore

REPLICAS = 10
CACHED_BYTES = 64 * MIB


class LoggingStore(CountingStore):
    """Notes in one file what all processes read of blobs and manifests."""

    def __init__(self, root: Path, log: Path) -> None:
        super().__init__(LocalStore(root))
        self._log = log

    def _note(self, name: str, offset: int, length: int) -> None:
        super()._note(name, offset, length)
        if name[:2] in ("b/", "m/"):
            descriptor = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, b"%d\n" % length)
            os.close(descriptor)


def one_tensor() -> None:
    """Bytes asked of the store for one tensor, over the tensor's own: whole, a row, rows across the middle."""
    with published(64 * MIB) as model:
        store = CountingStore(model.registry.store)
        registry = Registry(store, model.registry.keyring, "default", model.registry.store_id)
        version = registry.open(model.id)
        worst = 0
        name = "layers.1.mlp.weight"
        for start, stop in ((0, 2048), (0, 1), (127, 129), (1000, 1024), (1, 2047)):
            store.forget()
            found = load_slice(version, name, start, stop)
            worst = max(worst, store.counts.bytes - found.nbytes)
        store.forget()
        small = load_tensors(version, ["layers.1.mlp.bias"])["layers.1.mlp.bias"]
        worst = max(worst, store.counts.bytes - small.nbytes)
        limit = 2 * MIB + 1024
        figure(
            "tensor_read_bytes",
            "bytes beyond the tensor",
            [float(worst)],
            goal=f"<= {limit} (2 MiB, a header of 128 bytes, 16 a segment)",
            holds=lambda value: value <= limit,
        )


def ten_replicas() -> None:
    """Ten processes of one node load one version at once through the cache; what the store was asked for."""
    with published(CACHED_BYTES) as model:
        single = [_read_by(model, 1, f"single-{run}") for run in range(3)]
        ten = [_read_by(model, REPLICAS, f"ten-{run}") for run in range(RUNS)]
        figure(
            "ten_replicas",
            "bytes of the store",
            [float(read) for read in ten],
            [float(read) for read in single],
            goal="<= 1.05",
            holds=lambda value: value <= 1.05,
            replicas=REPLICAS,
        )


def _read_by(model: Published, replicas: int, label: str) -> int:
    log, cache = model.folder / f"{label}.log", model.folder / label

    def replica() -> None:
        torch.set_num_threads(1)  # a pool of threads does not survive a fork
        store = LoggingStore(model.folder / "store", log)
        caching = CachingStore(store, cache, 4 * CACHED_BYTES)
        registry = Registry(caching, model.registry.keyring, "default", model.registry.store_id)
        arena = Arena(model.state)
        registry.open(model.id).load_into(arena.outs)
        arena.check(model.state)
        os._exit(0)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=replica) for _ in range(replicas)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a replica failed")
    return sum(map(int, log.read_text().split()))


def main() -> None:
    """Both figures."""
    note("  one tensor, then ten replicas")
    one_tensor()
    ten_replicas()
