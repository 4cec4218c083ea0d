from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.registry.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of the user's."""
    found = tmp_path / "outside"
    found.mkdir()
    return found
