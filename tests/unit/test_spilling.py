"""The folders for what Ray spills: for their owner alone, without what was left there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lightmill.errors import RequestError
from lightmill.settings import Settings
from lightmill.spilling import job_spill_folder, node_spill_folder


def test_a_new_ray_begins_without_what_another_left(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, spill_path=tmp_path / "spill")
    folder = node_spill_folder(settings)
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "ray_spilled_objects_1").mkdir()
    (folder / "ray_spilled_objects_1" / "x").write_bytes(b"rows")
    (folder / "of the user").write_bytes(b"kept")
    node_spill_folder(settings)
    assert [path.name for path in folder.iterdir()] == ["of the user"]


def test_the_folder_of_a_job_that_was_killed_goes_with_the_next(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, spill_path=tmp_path / "spill")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / "spill" / f"job-{ended.pid}"
    with job_spill_folder(settings) as folder:
        left.mkdir()
        (left / "x").write_bytes(b"rows")
    assert left.exists() and not folder.exists(), "what is not ours stays until the next job looks"
    with job_spill_folder(settings):
        assert not left.exists()


def test_a_folder_that_others_may_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spill").mkdir(mode=0o755)
    (tmp_path / "spill" / "of somebody").touch()
    with pytest.raises(RequestError, match="0700"):
        node_spill_folder(Settings(home=tmp_path, spill_path=tmp_path / "spill"))
