"""A process that publishes canary weights, loads them and backs the store up, again and again, until it is killed.

Run: python -m tests.integration.carrier HOME COPY SEED
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from lightmill.registry.care import backup
from lightmill.registry.tensors import load_tensors
from lightmill.settings import Settings
from lightmill.storage import LocalStore
from lightmill.wiring import open_platform
from tests.unit.registry.world import open_latest, publish

NAME = "canary-model"
TENSOR = "canary.tensor"


def canary(seed: int) -> dict[str, torch.Tensor]:
    """Half a megabyte of random numbers under a name that is looked for."""
    return {TENSOR: torch.randn(400, 320, generator=torch.Generator().manual_seed(seed))}


def main() -> None:
    home, copy, first = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    platform = open_platform(Settings(home=home))
    seed = first
    while True:
        publish(platform.registry, NAME, canary(seed))
        found = load_tensors(open_latest(platform.registry, NAME))
        assert torch.equal(found[TENSOR], canary(seed)[TENSOR])
        backup(platform.registry.store, LocalStore(copy), platform.registry.keyring.trusted)
        print(seed, flush=True)
        seed += 1


if __name__ == "__main__":
    main()
