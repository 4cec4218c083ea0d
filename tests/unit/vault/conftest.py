from __future__ import annotations

from pathlib import Path

import pytest

from lightmill.vault import KeyRing


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing.create(tmp_path / "keys" / "ring.json")
