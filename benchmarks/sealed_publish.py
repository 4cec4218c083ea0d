"""Publishing: sealed, digested twice, durable, against save_file, sha256 and fsync; and eight publishers at once."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import safetensors.torch
import torch

from benchmarks.figures import figure, note
from benchmarks.sealed_models import MIB, QUICK, RUNS, make_state, new_registry, publish, scratch, seconds, total_bytes
from lightmill.storage import LocalStore

PUBLISHERS = 8


def publish_vs_plain() -> None:
    """In turn: ours into a fresh store, and the peer into a fresh file; both durable when they return."""
    state = make_state((256 if QUICK else 512) * MIB)
    size = total_bytes(state)
    ours, plain = [], []
    with scratch() as folder:
        for run in range(RUNS + 1):
            registry = new_registry(LocalStore(folder / "store"), folder)
            took = seconds(lambda registry=registry: publish(registry, state))
            shutil.rmtree(folder / "store")
            peer = seconds(lambda: _plain(state, folder / "plain"))
            shutil.rmtree(folder / "plain")
            os.sync()
            if run:
                ours.append(size / 1e9 / took), plain.append(size / 1e9 / peer)
                note(f"  run {run}: ours {ours[-1]:.2f}, save_file + sha256 + fsync {plain[-1]:.2f} GB/s")
    figure(
        "publish_vs_plain",
        "GB/s",
        ours,
        plain,
        goal=">= 0.8",
        holds=lambda value: value >= 0.8,
        model_bytes=size,
        digests="ours: SHA-256 of plaintext and of ciphertext, BLAKE3; peer: SHA-256 of the file",
    )


def concurrent_publish() -> None:
    """Eight processes publish a model each into one store; throughput over that of one."""
    size = (16 if QUICK else 64) * MIB
    states = [make_state(max(size, 32 * MIB), seed) for seed in range(PUBLISHERS)]
    one, eight = [], []
    with scratch() as folder:
        for run in range(RUNS):
            new_registry(LocalStore(folder / f"one-{run}"), folder)
            new_registry(LocalStore(folder / f"eight-{run}"), folder)
            one.append(_together(folder, f"one-{run}", states[:1]))
            eight.append(_together(folder, f"eight-{run}", states))
            for name in ("one", "eight"):
                shutil.rmtree(folder / f"{name}-{run}")
    figure("concurrent_publish", "GB/s", eight, one, publishers=PUBLISHERS, errors=0)


def _plain(state: dict[str, torch.Tensor], folder: Path) -> None:
    """What a careful engineer does without encryption: write, digest, make durable."""
    folder.mkdir()
    path = folder / "model.safetensors"
    safetensors.torch.save_file(state, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    (folder / "model.sha256").write_text(digest)
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def _together(folder: Path, store: str, states: list[dict[str, torch.Tensor]]) -> float:
    """Return GB/s of all publishers from the moment that they may begin to the end of the last."""
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(len(states) + 1)

    def publisher(number: int) -> None:
        torch.set_num_threads(1)  # a pool of threads does not survive a fork
        registry = new_registry(LocalStore(folder / store), folder)
        ready.wait()
        publish(registry, states[number], f"m{number}")
        os._exit(0)

    processes = [context.Process(target=publisher, args=(number,)) for number in range(len(states))]
    for process in processes:
        process.start()
    ready.wait()
    started = time.perf_counter()
    for process in processes:
        process.join()
    took = time.perf_counter() - started
    if any(process.exitcode for process in processes):
        raise SystemExit("a publisher failed")
    return sum(map(total_bytes, states)) / 1e9 / took


def main() -> None:
    """Both figures."""
    publish_vs_plain()
    concurrent_publish()
