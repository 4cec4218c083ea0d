"""What Ray spills lies where the settings say, for its owner alone, and goes with the Ray that spilled it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightmill.settings import Settings

CANARY = b"a canary that must not reach a disk "
SPILL = f"""
import pathlib, sys, tempfile
import numpy as np, ray
from lightmill.settings import Settings
from lightmill.spilling import job_spill_folder
canary = {CANARY!r}
with job_spill_folder(Settings.read()) as folder:
    options = {{"object_store_memory": 80_000_000, "num_cpus": 1, "include_dashboard": False}}
    ray.init(address="local", object_spilling_directory=str(folder), **options)
    kept = [ray.put(np.frombuffer(canary * 1_000_000 + bytes([n]), dtype=np.uint8)) for n in range(5)]
    spilled = [path for path in folder.rglob("*") if path.is_file()]
    found = sum(canary in path.read_bytes() for path in spilled)
    session = pathlib.Path(ray._private.worker._global_node.get_session_dir_path())
    outside = [str(p) for p in session.rglob("*") if p.is_file() and not p.is_symlink() and canary in p.read_bytes()]
    ray.shutdown()
print(len(spilled), found, outside, folder.exists())
"""


@pytest.mark.slow
@pytest.mark.integration
def test_what_ray_spills_lies_in_memory_and_goes_with_it(tmp_path: Path) -> None:
    environment = os.environ | {"LIGHTMILL_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", SPILL], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    files, found, rest = done.stdout.strip().split(maxsplit=2)
    assert int(files) >= 1 and int(found) >= 1, "the control: Ray did spill the canary"
    assert rest == "[] False"
    assert str(Settings(home=tmp_path / "home").spill_folder).startswith("/dev/shm/")
