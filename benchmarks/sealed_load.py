"""Loading encrypted weights against plain reads, safetensors and tensorizer's encrypted load.

Ours verifies and decrypts every byte; the peers, but for tensorizer, read plain files. Figures are GB/s of tensors.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

import safetensors.torch
import torch

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
from lightmill.registry.tensors import load_tensors


def warm() -> None:
    """Everything in the page cache, destinations touched before."""
    with published() as model:
        torch.set_num_threads(THREADS)
        plain = model.folder / "model.safetensors"
        safetensors.torch.save_file(model.state, plain)
        version, arena, size = model.open(), Arena(model.state), total_bytes(model.state)
        loaders: dict[str, Callable[[], object]] = {
            "ours": lambda: version.load_into(arena.outs, threads=THREADS),
            "preadv": lambda: _preadv(plain, arena.view, size),
            "touched": lambda: _touched(plain),
            "cloned": lambda: _cloned(plain, arena),
        }
        loaders["ours"]()
        arena.check(model.state)
        times = {name: speeds(size, took) for name, took in in_turn(loaders).items()}
        more: dict[str, object] = {"trap": TRAP, "threads": THREADS, "model_bytes": size, **machine()}
        figure("load_sealed_vs_preadv", "GB/s", times["ours"], times["preadv"], **_goal(0.90), **more)
        figure("load_sealed_vs_touched", "GB/s", times["ours"], times["touched"], **_goal(1.0), **more)
        figure("load_sealed_vs_cloned", "GB/s", times["ours"], times["cloned"], **_goal(1.3), **more)
        _tensorizer(model, size)


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


def _touched(path: Path) -> None:
    """Map with safetensors and touch every page: nothing is copied."""
    for value in safetensors.torch.load_file(path).values():
        value.view(torch.uint8).view(-1)[::4096].sum()


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


def _tensorizer(model: Published, size: int) -> None:
    """Compare with tensorizer's encrypted load; both into fresh memory, since tensorizer allocates its own."""
    try:
        from tensorizer import DecryptionParams, EncryptionParams, TensorDeserializer, TensorSerializer
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
    version = model.open()

    def theirs() -> None:
        decryption = DecryptionParams.from_key(key.key)
        with TensorDeserializer(str(path), device="cpu", encryption=decryption, num_readers=THREADS) as found:
            for name in found:
                _ = found[name]

    times = in_turn({"ours": lambda: load_tensors(version, threads=THREADS), "tensorizer": theirs})
    figure(
        "load_vs_tensorizer",
        "GB/s",
        speeds(size, times["ours"]),
        speeds(size, times["tensorizer"]),
        **_goal(4),
        trap="fresh memory on both sides",
        threads=THREADS,
        **machine(),
    )


def main() -> None:
    """All figures of loading from a local store."""
    note(f"  a model of {MODEL_BYTES // MIB} MiB on the disk below {Path.cwd()}")
    warm()
    cold()
    memory()
