"""Workers that have parts of the model step as one process that has all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightmill.errors import RequestError
from lightmill.models.architectures import build_module
from lightmill.training.strategies import STRATEGIES as KINDS
from tests.teams import Case, same, spec_of, train_together
from tests.unit.training.strategies.cases import labelled, told_apart, untied, with_categories, worded

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"optimizer": "adamw", "learning_rate": 0.01, "clip_norm": 0.1, "accumulate": 2},
    "averaged": {"schedule": {"name": "cosine", "warmup_steps": 3}, "ema": 0.9, "weight_decay": 0.1, "l1": 0.001},
    "again": {"checkpoint_activations": True, "optimizer": {"name": "sgd", "arguments": {"momentum": 0.9}}},
}
# AdamW divides by the root of mean squares: where a gradient is near 0, rounding shows in the fifth decimal.
ATOL = {"plain": 1e-6, "clipped": 2e-5, "averaged": 1e-6, "again": 1e-6}
STRATEGIES: dict[str, dict[str, Any]] = {
    "fsdp": {"name": "fsdp"},
    "tensor": {"name": "tensor"},
    "tensor-2": {"name": "tensor", "size": 2},
    "sequence": {"name": "tensor", "sequence": True},
    "pipeline": {"name": "pipeline", "microbatches": 4},
    "gpipe-2": {"name": "pipeline", "stages": 2, "microbatches": 3, "schedule": "gpipe"},
    "context": {"name": "context"},
    "context-2": {"name": "context", "size": 2},
    "hybrid-pt": {"name": "hybrid", "pipeline": 2, "tensor": 2, "microbatches": 2},
    "hybrid-ts": {"name": "hybrid", "tensor": 2, "shard": True},
    "hybrid-ps": {"name": "hybrid", "pipeline": 2, "shard": True, "microbatches": 2},
}


def unfit(strategy: str, make: Callable[[], Case], world: int) -> bool:
    """Say whether `check` refuses this."""
    spec = spec_of(make(), strategy=STRATEGIES[strategy], batch_size=24, workers=world)
    with torch.device("meta"):
        module = build_module(make().objective.architecture)
    try:
        KINDS[spec.strategy.name].check(spec, module, world)
    except RequestError:
        return True
    return False


# 5 models and ways, with 7 strategies on two workers and 11 on four; a few of them are refused.
ON_TWO = ("fsdp", "tensor", "sequence", "pipeline", "context", "hybrid-ts", "hybrid-ps")


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "world"), [(name, 2) for name in ON_TWO] + [(name, 4) for name in STRATEGIES])
@pytest.mark.parametrize(
    ("make", "way"),
    [
        (labelled, "clipped"),
        (with_categories, "plain"),
        (worded, "clipped"),
        (untied, "averaged"),
        (told_apart, "again"),
    ],
)
def test_workers_step_as_one_process(
    strategy: str, way: str, make: Callable[[], Case], world: int, tmp_path: Path
) -> None:
    if unfit(strategy, make, world):
        pytest.skip("refused: this model does not split so")
    alone = train_together(make, 1, tmp_path, **WAYS[way])
    same(alone, train_together(make, world, tmp_path, **WAYS[way], strategy=STRATEGIES[strategy]), atol=ATOL[way])
