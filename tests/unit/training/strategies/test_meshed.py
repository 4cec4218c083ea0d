"""Workers that have parts of the model step as one process that has all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.teams import Case, same, train_together
from tests.unit.training.strategies.cases import labelled, language

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"optimizer": "adamw", "learning_rate": 0.01, "clip_norm": 0.1, "accumulate": 2},
    "averaged": {"schedule": {"name": "cosine", "warmup_steps": 3}, "ema": 0.9, "weight_decay": 0.1, "l1": 0.001},
}
STRATEGIES: dict[str, dict[str, Any]] = {
    "fsdp": {"name": "fsdp"},
    "tensor": {"name": "tensor"},
    "pipeline": {"name": "pipeline", "microbatches": 2},
    "context": {"name": "context"},
}


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("make", [labelled, language])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_workers_step_as_one_process(
    strategy: str, way: str, make: Callable[[], Case], world: int, tmp_path: Path
) -> None:
    if strategy == "context" and make is labelled:
        pytest.skip("features have no tokens to split")
    more = WAYS[way] | {"strategy": STRATEGIES[strategy]}
    alone = train_together(make, 1, tmp_path, **WAYS[way])
    same(alone, train_together(make, world, tmp_path, **more))
