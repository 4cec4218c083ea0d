"""Loading encrypted weights against plain reads, safetensors and tensorizer's encrypted load.

Ours verifies and decrypts every byte; the peers, but for tensorizer, read plain files. Figures are GB/s of tensors.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

import safetensors.torch
import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.figures import figure, note
from benchmarks.sealed_models import (
    MIB,
    MODEL_BYTES,
    RUNS,
    THREADS,
    TRAP,
    Arena,
    Published,
    drop_from_page_cache,
    in_turn,
    machine,
    on_threads,
    published,
    seconds,
    speeds,
    total_bytes,
)
from lightmill.registry.tensors import load_tensors, tensor_bytes

KEEP_MEMORY = "dirty_decay_ms:-1,muzzy_decay_ms:-1,retain:true,thp:always"
BARE = AESGCM(bytes(32))


def warm() -> None:
    """Everything in the page cache, destinations touched before."""
    with published() as model:
        torch.set_num_threads(THREADS)
        plain = model.folder / "model.safetensors"
        safetensors.torch.save_file(model.state, plain)
        version, arena, size = model.open(), Arena(model.state), total_bytes(model.state)
        sealed, bodies = model.folder / "bare", _seal_bare(model.folder / "bare", model.state)
        loaders: dict[str, Callable[[], object]] = {
            "ours": lambda: version.load_into(arena.outs, threads=THREADS),
            "bare": lambda: _bare(sealed, arena, bodies),
            "preadv": lambda: _preadv(plain, arena.view, size),
            "touched": lambda: _touched(plain),
            "cloned": lambda: _cloned(plain, arena),
        }
        loaders["ours"]()
        arena.check(model.state)
        times = {name: speeds(size, took) for name, took in in_turn(loaders).items()}
        more: dict[str, object] = {"trap": TRAP, "threads": THREADS, "model_bytes": size, **machine()}
        figure("load_sealed_vs_preadv", "GB/s", times["ours"], times["preadv"], **_goal(0.90), **more)
        figure(
            "load_sealed_vs_bare", "GB/s", times["ours"], times["bare"], peer_is="preadv + AES-GCM, no loader", **more
        )
        figure("load_sealed_vs_touched", "GB/s", times["ours"], times["touched"], **_goal(1.0), **more)
        figure("load_sealed_vs_cloned", "GB/s", times["ours"], times["cloned"], **_goal(1.3), **more)
        _tensorizer(model, size, loaders["ours"])


def cold() -> None:
    """From the disk: page cache dropped by posix_fadvise(DONTNEED) before every run; raw is O_DIRECT."""
    with published() as model:
        version, arena, size = model.open(), Arena(model.state), total_bytes(model.state)
        plain = model.folder / "model.safetensors"
        safetensors.torch.save_file(model.state, plain)
        paths = model.blob_paths()
        ours, raw, safe = [], [], []
        for run in range(RUNS):
            drop_from_page_cache(paths)
            ours.append(size / 1e9 / seconds(lambda: version.load_into(arena.outs, threads=THREADS)))
            arena.check(model.state)
            drop_from_page_cache(paths)
            raw.append(size / 1e9 / seconds(lambda: _direct(paths)))
            drop_from_page_cache([plain])
            safe.append(size / 1e9 / seconds(lambda: _cloned(plain, arena)))
            note(f"  run {run + 1}: ours {ours[-1]:.2f}, O_DIRECT {raw[-1]:.2f}, safetensors {safe[-1]:.2f} GB/s")
        dropped = "posix_fadvise DONTNEED; a host may still cache the disk"
        figure("load_cold_vs_raw", "GB/s", ours, raw, **_goal(0.9), trap=TRAP, cache_dropped_by=dropped)
        figure("load_cold_vs_safetensors", "GB/s", ours, safe, **_goal(1.5), trap=TRAP, cache_dropped_by=dropped)


def memory() -> None:
    """How far a load raises the peak of resident memory over the destination, which was touched before."""
    with published(256 * MIB) as model:
        version, arena = model.open(), Arena(model.state)
        version.load_into(arena.outs, threads=THREADS)
        extra = []
        for _ in range(RUNS):
            ctypes.CDLL(None).malloc_trim(0)  # what earlier loads left to the allocator counts as extra again
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            before = _status("VmRSS")
            version.load_into(arena.outs, threads=THREADS)
            extra.append((_status("VmHWM") - before) / MIB)
        limit = THREADS * 2.0
        figure(
            "load_extra_memory",
            "MiB",
            [max(value, 0.0) for value in extra],
            goal=f"<= {limit:g} MiB ({THREADS} threads x 2 MiB)",
            holds=lambda value: value <= limit,
            model_bytes=total_bytes(model.state),
            measured_by="VmHWM after clear_refs, less VmRSS before",
        )


def _goal(least: float) -> dict[str, object]:
    return {"goal": f">= {least:g}", "holds": lambda value: value >= least}


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _preadv(path: Path, out: memoryview, size: int) -> None:
    """Read a plain file into the arena, a MiB at a time, on as many threads as ours."""
    descriptor, numbers, lock = os.open(path, os.O_RDONLY), count(), threading.Lock()

    def read(_: int) -> None:
        while True:
            with lock:
                start = next(numbers) * MIB
            if start >= size:
                return
            os.preadv(descriptor, [out[start : min(start + MIB, size)]], start)

    try:
        on_threads(THREADS, read)
    finally:
        os.close(descriptor)


def _seal_bare(path: Path, state: dict[str, torch.Tensor]) -> list[tuple[str, int, int, int]]:
    """Write the same bytes as segments under one key; return (tensor, start, length, offset) of each."""
    bodies: list[tuple[str, int, int, int]] = []
    with path.open("wb") as file:
        for name, value in state.items():
            data = tensor_bytes(value)
            for start in range(0, data.nbytes, MIB):
                part = data[start : start + MIB]
                bodies.append((name, start, part.nbytes, file.tell()))
                file.write(BARE.encrypt(len(bodies).to_bytes(12, "big"), part, None))
    return bodies


def _bare(path: Path, arena: Arena, bodies: list[tuple[str, int, int, int]]) -> None:
    """Do what any encrypted load must: read segments into a small buffer, decrypt each into the arena."""
    descriptor, numbers, lock = os.open(path, os.O_RDONLY), count(), threading.Lock()

    def read(_: int) -> None:
        buffer = memoryview(bytearray(MIB + 16))
        while True:
            with lock:
                number = next(numbers)
            if number >= len(bodies):
                return
            name, start, length, offset = bodies[number]
            view = buffer[: length + 16]
            os.preadv(descriptor, [view], offset)
            BARE.decrypt_into((number + 1).to_bytes(12, "big"), view, None, arena.outs[name][start : start + length])

    try:
        on_threads(THREADS, read)
    finally:
        os.close(descriptor)


def _touched(path: Path) -> None:
    """Map with safetensors and read every byte once, as computing with it would; nothing is copied."""
    for value in safetensors.torch.load_file(path).values():
        value.view(-1).view(torch.int64).sum()


def _cloned(path: Path, arena: Arena) -> None:
    """Map with safetensors and copy into the arena, which is what `clone` does without its allocation."""
    for name, value in safetensors.torch.load_file(path).items():
        arena.tensors[name].view(torch.int16).copy_(value.view(torch.int16))


def _direct(paths: list[Path]) -> None:
    """Read files past the page cache, as many MiB at a time as one part of ours."""
    work = [(path, start) for path in paths for start in range(0, path.stat().st_size, 8 * MIB)]
    numbers, lock = iter(work), threading.Lock()

    def read(_: int) -> None:
        memory = mmap.mmap(-1, 8 * MIB)
        while True:
            with lock:
                job = next(numbers, None)
            if job is None:
                return
            descriptor = os.open(job[0], os.O_RDONLY | os.O_DIRECT)
            try:
                os.preadv(descriptor, [memory], job[1])
            finally:
                os.close(descriptor)

    on_threads(THREADS, read)


def _tensorizer(model: Published, size: int, ours: Callable[[], object]) -> None:
    """Compare with tensorizer's encrypted load, which allocates its own memory.

    Under jemalloc, told to keep what was freed, that memory was touched before, as ours was. Without jemalloc both
    load into fresh memory.
    """
    try:
        from tensorizer import EncryptionParams, TensorSerializer
    except ImportError as exc:
        note(f"  load_vs_tensorizer is left out: {exc}; pip install tensorizer")
        return
    path, key = model.folder / "model.tensors", EncryptionParams.random()
    try:
        serializer = TensorSerializer(str(path), encryption=key)
        serializer.write_state_dict(model.state)
        serializer.close()
    except Exception as exc:  # noqa: BLE001 - it needs libsodium, and says so in its own way
        note(f"  load_vs_tensorizer is left out: tensorizer cannot encrypt here ({exc})")
        return
    jemalloc = _jemalloc()
    version, by_hand = model.open(), Path(__file__).with_name("tensorizer_by_hand.py")
    loader = ours if jemalloc else lambda: load_tensors(version, threads=THREADS)
    kept = {"LD_PRELOAD": jemalloc, "MALLOC_CONF": KEEP_MEMORY} if jemalloc else {}
    process = subprocess.Popen(
        [sys.executable, by_hand, path, key.key.hex(), str(THREADS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | kept,
    )
    assert process.stdin and process.stdout
    mine, theirs = [], []
    for run in range(RUNS + 1):
        took = seconds(loader)
        process.stdin.write("\n")
        process.stdin.flush()
        peer = float(process.stdout.readline())
        if run:
            mine.append(took), theirs.append(peer)
    process.stdin.close()
    process.wait()
    trap = "reused arena; tensorizer under jemalloc that keeps memory" if jemalloc else "fresh memory on both sides"
    times = (speeds(size, mine), speeds(size, theirs))
    figure("load_vs_tensorizer", "GB/s", *times, **_goal(4), trap=trap, threads=THREADS, **machine())


def _jemalloc() -> str | None:
    """Return the system's jemalloc, or the one that comes with Ray."""
    found = ctypes.util.find_library("jemalloc")
    if found:
        return found
    ray = importlib.util.find_spec("ray")
    beside = Path(ray.origin).parent / "core" / "libjemalloc.so" if ray and ray.origin else None
    return str(beside) if beside and beside.exists() else None


def main() -> None:
    """All figures of loading from a local store."""
    note(f"  a model of {MODEL_BYTES // MIB} MiB on the disk below {Path.cwd()}")
    warm()
    cold()
    memory()
