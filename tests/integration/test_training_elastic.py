"""A run that shrinks with a lost node and grows with a new one sees every row once in each epoch."""

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
from tests.platforms import BIN, temporary_platform

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


def test_every_row_is_seen_once_an_epoch_though_a_node_is_lost_and_one_is_added(tmp_path: Path) -> None:
    with temporary_platform() as home:
        write_numbers(tmp_path, rows=1500)
        home.run(BIN / "python", "-m", "tests.integration.elastic_run", home.home, tmp_path)
        platform = open_platform(Settings(home=home.home))
        version = platform.registry.open(
            platform.registry.resolve(AssetKind.DATASET, parse_reference("numbers@latest"))
        )
        every = sorted(read_rows(version, platform.location, "train").column("row_id").to_pylist())
    history: dict[Place, dict[int, list[int]]] = {}
    worlds = []
    for world, ranks in attempts(tmp_path / "seen"):
        first = min(min(steps) for steps in ranks.values())
        history = {place: rows for place, rows in history.items() if place < first}
        merged: dict[Place, dict[int, list[int]]] = defaultdict(dict)
        for rank, steps in ranks.items():
            for place, rows in steps.items():
                merged[place][rank] = rows
        history |= {place: rows for place, rows in merged.items() if len(rows) == world}
        worlds.append(world)
    print(f"groups of {worlds} workers")
    assert worlds[0] == 3 and 2 in worlds and worlds[-1] == 3
    for epoch in range(SPEC_EPOCHS):
        rows = [row for (e, _), ranks in history.items() if e == epoch for some in ranks.values() for row in some]
        assert sorted(rows) == every, f"epoch {epoch}"
