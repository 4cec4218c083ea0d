"""A disk that is full or read-only for real: a tiny file system in a mount namespace of a child process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def on_small_disk(code: str, folder: Path, size_kib: int) -> str:
    """Run Python with `DISK`, the path of a file system of its own; return what it printed."""
    disk = folder / "disk"
    disk.mkdir()
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        print("skipping: no mount namespace can be made here")
        pytest.skip("no mount namespace can be made here")
    mount = f"mount -t tmpfs -o size={size_kib}k tmpfs '{disk}' && exec \"$@\""
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, "-c", code, str(disk), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


FILL = """
import os, sys
from lightmill.errors import UnavailableError
from lightmill.storage import LocalStore
store = LocalStore(sys.argv[1] + "/store")
data, made = os.urandom(40_000), []
try:
    for i in range(100):
        store.create(f"b/{i}", data)
        made.append(f"b/{i}")
except UnavailableError as error:
    assert "No space left" in error.message and "free some space" in error.message, error.message
assert 2 < len(made) < 25
assert list(store.list("")) == sorted(made) and os.listdir(sys.argv[1] + "/store/tmp") == []
assert all(store.get(name) == data for name in made)
store.delete(made[0])
store.create("b/again", data)
print(len(made))
"""


def test_a_full_disk_leaves_whole_objects_or_none(tmp_path: Path) -> None:
    assert int(on_small_disk(FILL, tmp_path, 512)) > 2


READ_ONLY = """
import subprocess, sys
from lightmill.errors import UnavailableError
from lightmill.storage import LocalStore
store = LocalStore(sys.argv[1] + "/store")
store.create("b/x", b"bytes")
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
for call in (lambda: store.create("b/y", b""), lambda: store.create("c/y", b""), lambda: store.delete("b/x")):
    try:
        call()
    except UnavailableError as error:
        assert "read-only" in error.message and "mount it for writing" in error.message, error.message
    else:
        raise AssertionError("written to a read-only disk")
assert store.get("b/x") == b"bytes" and list(store.list("")) == ["b/x"] and store.head("b/x") == 5
print("read-only")
"""


def test_a_read_only_disk_can_be_read(tmp_path: Path) -> None:
    assert on_small_disk(READ_ONLY, tmp_path, 512) == "read-only\n"


PUBLISH = """
import os, sys
from pathlib import Path
from lightmill.errors import UnavailableError
from lightmill.records.references import AssetKind
from lightmill.registry import Content, Registry, initialize_store
from lightmill.storage import LocalStore
from lightmill.vault import KeyRing
disk, folder = sys.argv[1:]
store, ring = LocalStore(disk + "/store"), KeyRing.create(Path(folder) / "ring.json")
registry = Registry(store, ring, "default", initialize_store(store))
published, failed = {}, 0
for i in range(60):
    data = os.urandom(30_000 if i % 3 else 3_000)
    before = set(store.list(""))
    try:
        draft = registry.begin(AssetKind.RUN, "r")
        sealed = draft.seal_files({"log": data})
        summary = registry.commit(draft, Content(files=sealed.files, blobs=sealed.blobs))
        published[summary.id] = data
    except UnavailableError as error:
        assert "No space left" in error.message
        failed += 1
        if failed % 3 == 0:  # somebody makes room, by what no version needs
            for name in set(store.list("b/")) - before:
                store.delete(name)
    assert registry.latest(AssetKind.RUN, "r") == len(published)
assert sorted(id.seq for id in published) == list(range(1, len(published) + 1))
for id, data in published.items():
    assert registry.open(id).read_file("log") == data
assert failed > 5 and len(published) > 3
print(f"{len(published)} published, {failed} refused for want of space")
"""


def test_a_disk_that_fills_up_in_the_middle_of_publishing_loses_nothing(tmp_path: Path) -> None:
    print(on_small_disk(PUBLISH, tmp_path, 1024))
