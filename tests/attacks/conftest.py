from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lightmill.storage import LocalStore
from tests.attacks.scene import Scene, build, edits
from tests.conftest import Tally


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Never changed; an attack works on a copy of its store."""
    return build(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def stolen(scene: Scene, tmp_path: Path) -> LocalStore:
    """A copy of the store, to edit."""
    return scene.world.copy_of_store(str(tmp_path / "stolen"))


@pytest.fixture(autouse=True)
def edits_counted(tally: Tally) -> Iterator[None]:
    """Adds what the test edits in stores to the counts."""
    before = next(edits)
    yield
    tally("stored objects edited by attacks", next(edits) - before - 1)
