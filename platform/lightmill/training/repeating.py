"""What makes a run repeatable: seeds for every share of rows and epoch, deterministic kernels, what it ran on.

With the same specification, rows, packages and hardware, and as many workers and threads, `deterministic: true` gives
the same bits. Without it torch may add numbers up in another order, on GPUs above all.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lightmill.records.assets import HardwareState
from lightmill.training.team import Team

CUBLAS_WORKSPACE = ":4096:8"
_CPU_INFO = Path("/proc/cpuinfo")


def seed_at(seed: int, rank: int, epoch: int, step: int = 0) -> None:
    """Seed torch for what follows a place in a run, so that dropout is the same after a resumption there.

    `rank` is that of the share of rows: workers that split a model draw alike.
    """
    mixed = 0
    for part in (seed, rank, epoch, step):
        mixed = (mixed * 6_364_136_223_846_793_005 + (part & 0xFFFFFFFF) + 1_442_695_040_888_963_407) & (2**64 - 1)
        mixed ^= mixed >> 29  # a linear congruential step and a shift: neighbours are far apart
    torch.manual_seed(mixed & (2**63 - 1))


@contextmanager
def deterministic_kernels(asked: bool) -> Iterator[None]:
    """Let torch use only kernels that give the same bits each time, while the block runs, if that is asked for.

    An operation that has none raises RuntimeError. cuBLAS reads its workspace from the environment when it starts, so
    enter this before the first computation on a GPU.
    """
    if not asked:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[1:]


def hardware_of(team: Team) -> HardwareState:
    """Return what this worker computes on."""
    cuda = team.device.type == "cuda"
    return HardwareState(
        machine=platform.machine(),
        processor=_processor(),
        capability=torch.backends.cpu.get_cpu_capability(),
        system=f"{platform.system()} {platform.release()}",
        threads=torch.get_num_threads(),
        workers=team.world,
        device=torch.cuda.get_device_name(team.device) if cuda else "",
    )


def _processor() -> str:
    """Return the processor's name, as far as the system tells."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
