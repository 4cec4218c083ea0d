"""Groups that wait for each other step as one process; others lose no update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.teams import same, train_together
from tests.unit.training.strategies.cases import labelled, language
from tests.unit.training.strategies.test_parameter_server import OPTIONS, measured

pytestmark = pytest.mark.slow


def groups(consistency: str, **more: Any) -> dict[str, Any]:
    return {"strategy": {"name": "hybrid_sync", "group_size": 2, "consistency": consistency, **more}}


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("more", [OPTIONS["clipped"], OPTIONS["averaged"]], ids=["clipped", "averaged"])
def test_groups_that_wait_for_each_other_step_as_one_process(world: int, more: dict[str, Any], tmp_path: Path) -> None:
    make = labelled if world == 2 else language
    together = train_together(make, world, tmp_path, **more, **groups("bsp", servers=2))
    same(train_together(make, 1, tmp_path, **more), together)


def test_one_group_that_waits_for_nobody_steps_as_one_process_though_its_workers_count_unlike(tmp_path: Path) -> None:
    same(train_together(language, 1, tmp_path), train_together(language, 2, tmp_path, **groups("asp")))


def test_groups_that_wait_for_nobody_lose_no_update(tmp_path: Path) -> None:
    found = train_together(labelled, 4, tmp_path, measured, **groups("ssp", staleness=1))
    assert found.after[0]["server_updates"] == 2 * 2 * 7  # groups x epochs x steps
    assert found.after[0]["staleness_max"] <= 1
    assert found.losses[-1] < found.losses[0]
