"""A run whose nodes go and come, with notice and without, sees every row once in each epoch."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from lightmill.datasets.reading import read_rows
from lightmill.records.references import AssetKind, parse_reference
from lightmill.settings import Settings
from lightmill.wiring import open_platform
from tests.integration.elastic_run import SPEC_EPOCHS
from tests.integration.numbers import write_numbers
from tests.platforms import BIN, TestPlatform, temporary_platform

pytestmark = [pytest.mark.integration, pytest.mark.slow]
Place = tuple[int, int]


def attempts(folder: Path) -> list[tuple[int, dict[int, dict[Place, list[int]]]]]:
    """Each group of workers, oldest first: how many they were, and the rows of each rank in each step."""
    groups: list[tuple[int, dict[int, dict[Place, list[int]]]]] = []
    for path in sorted(folder.glob("*.jsonl")):
        _, rank, world = map(int, path.stem.split("-"))
        lines: list[dict[str, Any]] = []
        for line in path.read_text().splitlines():
            if line.endswith("}"):
                lines.append(json.loads(line))
        steps = {(line["epoch"], line["step"]): line["rows"] for line in lines}
        if not groups or groups[-1][0] != world or rank in groups[-1][1]:
            groups.append((world, {}))
        groups[-1][1][rank] = steps
    return groups


def trained(home: TestPlatform, folder: Path, how: str) -> tuple[list[int], list[Place], dict[Place, list[int]]]:
    """Train while a node goes; return how many workers each group had, where it began, and the rows of each step.

    The rows of a step are those of the last group that all had it.
    """
    write_numbers(folder, rows=1500)
    home.run(BIN / "python", "-m", "tests.integration.elastic_run", home.home, folder, how)
    history: dict[Place, dict[int, list[int]]] = {}
    worlds, firsts = [], []
    for world, ranks in attempts(folder / "seen"):
        first = min(min(steps) for steps in ranks.values())
        history = {place: rows for place, rows in history.items() if place < first}
        merged: dict[Place, dict[int, list[int]]] = defaultdict(dict)
        for rank, steps in ranks.items():
            for place, rows in steps.items():
                merged[place][rank] = rows
        history |= {place: rows for place, rows in merged.items() if len(rows) == world}
        worlds.append(world)
        firsts.append(first)
    print(f"groups of {worlds} workers, which began at {firsts}")
    return worlds, firsts, {place: [row for some in ranks.values() for row in some] for place, ranks in history.items()}


def check_rows(home: TestPlatform, history: dict[Place, list[int]]) -> None:
    """Every row of the training split is there once an epoch."""
    platform = open_platform(Settings(home=home.home))
    version = platform.registry.open(platform.registry.resolve(AssetKind.DATASET, parse_reference("numbers@latest")))
    every = sorted(read_rows(version, platform.location, "train").column("row_id").to_pylist())
    for epoch in range(SPEC_EPOCHS):
        rows = [row for (e, _), some in history.items() if e == epoch for row in some]
        assert sorted(rows) == every, f"epoch {epoch}"


def test_every_row_is_seen_once_an_epoch_though_a_node_is_lost_and_one_is_added(tmp_path: Path) -> None:
    with temporary_platform() as home:
        worlds, _, history = trained(home, tmp_path, "lost")
        assert worlds[0] == 3 and 2 in worlds and worlds[-1] == 3
        check_rows(home, history)


def test_a_notice_of_preemption_is_answered_by_a_checkpoint_and_costs_no_failure(tmp_path: Path) -> None:
    with temporary_platform() as home:
        worlds, firsts, history = trained(home, tmp_path, "preempted")
        assert worlds[0] == 3 and worlds[-1] == 2
        assert firsts[-1][1] > 0, "a group went on in the middle of an epoch, where no checkpoint is regular"
        check_rows(home, history)
