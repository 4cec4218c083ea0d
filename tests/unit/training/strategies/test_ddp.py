"""Data parallel workers step as one process with the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.teams import Case, same, train_together
from tests.unit.training.strategies.cases import labelled, language

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("make", [labelled, language])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"optimizer": "adamw", "learning_rate": 0.01, "clip_norm": 0.1, "accumulate": 2},
        {"schedule": {"name": "cosine", "warmup_steps": 3}, "ema": 0.9, "weight_decay": 0.1, "l1": 0.001},
    ],
    ids=["plain", "clipped", "averaged"],
)
def test_workers_step_as_one_process(
    make: Callable[[], Case], world: int, more: dict[str, Any], tmp_path: Path
) -> None:
    same(train_together(make, 1, tmp_path, **more), train_together(make, world, tmp_path, **more))
