from __future__ import annotations

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightmill.errors import ConflictError, NotFoundError, RequestError, UnavailableError
from lightmill.storage import LocalStore

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


class Recorder:
    """Stands for fsync and notes what was synced, and whether the object had its name by then."""

    def __init__(self, root: Path, final: str) -> None:
        self.root, self.final = root, root / final
        self.calls: list[tuple[str, bool]] = []

    def __call__(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        name = "a temporary file" if path.name.startswith("tmp-") else os.path.relpath(path, self.root)
        if name == "a temporary file":
            assert os.fstat(descriptor).st_size == 5, "synced before it was complete"
        self.calls.append((name, self.final.exists()))


def test_every_step_is_synced_in_the_order_that_survives_a_crash(tmp_path: Path) -> None:
    root = tmp_path / "store"
    recorder = Recorder(root, "b/ab/x")
    store = LocalStore(root, fsync=recorder)

    store.create("b/ab/x", b"bytes")
    assert recorder.calls == [
        ("..", False),  # the root has its name
        (".", False),  # root/tmp
        (".", False),  # root/b
        ("b", False),  # root/b/ab
        ("a temporary file", False),
        ("b/ab", True),  # the object
    ]

    recorder.calls.clear()
    recorder.final = root / "b/ab/y"
    store.create("b/ab/y", b"bytes")
    assert recorder.calls == [("a temporary file", False), ("b/ab", True)]

    recorder.calls.clear()
    store.delete("b/ab/y")
    assert recorder.calls == [("b/ab", False)]


def test_directories_made_by_another_process_are_synced_too(tmp_path: Path) -> None:
    """Their maker may have been killed before it synced them."""
    root = tmp_path / "store"
    (root / "b" / "ab").mkdir(parents=True)
    recorder = Recorder(root, "b/ab/x")
    LocalStore(root, fsync=recorder).create("b/ab/x", b"bytes")
    assert [name for name, _ in recorder.calls] == [".", ".", "b", "a temporary file", "b/ab"]


def test_only_the_owner_can_reach_what_is_stored(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.create("b/ab/x", b"x")
    for path in (tmp_path / "store", tmp_path / "store/tmp", tmp_path / "store/b", tmp_path / "store/b/ab"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.path("b/ab/x").stat().st_mode) == 0o600
    assert store.path("b/ab/x").read_bytes() == b"x"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_refusing_file_system_is_unavailable_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    refusing = False

    def fsync(descriptor: int) -> None:
        if refusing and "tmp-" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))

    store = LocalStore(tmp_path, fsync=fsync)
    store.create("b/first", b"x")
    refusing = True
    with pytest.raises(UnavailableError) as refused:
        store.create("b/second", b"y" * 100_000)
    assert str(tmp_path / "b/second") in str(refused.value) and os.strerror(number) in str(refused.value)
    assert os.listdir(tmp_path / "tmp") == []
    assert list(store.list("")) == ["b/first"]
    refusing = False
    store.create("b/second", b"y")


def test_a_lost_directory_sync_is_reported_and_a_retry_finds_the_object(tmp_path: Path) -> None:
    refusing = False

    def fsync(descriptor: int) -> None:
        if refusing and os.readlink(f"/proc/self/fd/{descriptor}") == str(tmp_path / "b"):
            raise OSError(errno.EIO, "I/O error")

    store = LocalStore(tmp_path, fsync=fsync)
    store.create("b/first", b"x")
    refusing = True
    with pytest.raises(UnavailableError, match="check it before anything else"):
        store.create("b/second", b"mine")
    refusing = False
    with pytest.raises(ConflictError):
        store.create("b/second", b"mine")
    assert store.get("b/second") == b"mine"


LIMITED = """
import resource, sys
from lightmill.errors import UnavailableError
from lightmill.storage import LocalStore
store = LocalStore(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
store.create("small", b"x" * 4096)
try:
    store.create("large", b"x" * 4097)
except UnavailableError as error:
    print(error)
"""


def test_a_write_that_the_system_cuts_short_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=True,
    )
    assert str(tmp_path / "large") in done.stdout
    assert list(LocalStore(tmp_path).list("")) == ["small"] and os.listdir(tmp_path / "tmp") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_directory_without_rights_is_unavailable(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.create("b/x", b"x")
    (tmp_path / "b").chmod(0o500)
    with pytest.raises(UnavailableError, match="right to read and write"):
        store.create("b/y", b"y")
    (tmp_path / "b").chmod(0o700)
    assert os.listdir(tmp_path / "tmp") == []


def test_a_root_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    store = LocalStore(tmp_path / "file" / "store")
    with pytest.raises(RequestError, match="cannot be made"):
        store.create("a", b"x")
    assert list(store.list("")) == []


def test_an_object_cannot_become_a_folder(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.create("a", b"x")
    with pytest.raises(RequestError, match="part of its name is an object"):
        store.create("a/b", b"x")
    assert list(store.list("")) == ["a"] and os.listdir(tmp_path / "tmp") == []


def test_a_store_whose_directories_vanish_recovers(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.create("a/b", b"x")
    (tmp_path / "store").rename(tmp_path / "moved")
    with pytest.raises(UnavailableError, match="removed meanwhile"):
        store.create("a/c", b"x")
    store.create("a/c", b"x")
    assert list(store.list("")) == ["a/c"]


def test_unfinished_files_are_never_listed_nor_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.create("a", b"x")
    (tmp_path / "tmp" / "tmp-dead").write_bytes(b"half")
    assert list(store.list("")) == ["a"]
    assert list(store.list("t")) == list(store.list("tmp/")) == []
    with pytest.raises(RequestError):
        store.get("tmp/tmp-dead")


WRITER = """
import sys
from lightmill.storage import LocalStore
store, start = LocalStore(sys.argv[1]), int(sys.argv[2])
for i in range(start, start + 100_000):
    store.create(f"b/{i % 7}/{i}", i.to_bytes(8, "little") * 16384)
    sys.stdout.write(f"{i}\\n")
    sys.stdout.flush()
"""


def test_a_killed_writer_leaves_whole_objects_or_none(tmp_path: Path) -> None:
    store, acknowledged, chance = LocalStore(tmp_path), set[int](), random.Random(7)
    for life in range(6):
        start = life * 1_000_000
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(start)], stdout=subprocess.PIPE, env=ENVIRONMENT
        )
        assert writer.stdout
        first = writer.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.15))
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().split(b"\n")[:-1]
        writer.wait()
        writer.stdout.close()
        acknowledged |= {int(line) for line in [first, *rest] if line}
    stored = {int(name.rpartition("/")[2]): store.get(name) for name in store.list("")}
    assert len(acknowledged) >= 6 and acknowledged <= stored.keys()
    assert all(data == i.to_bytes(8, "little") * 16384 for i, data in stored.items())
    assert len(stored) <= len(acknowledged) + 6  # at most one per life that was made and not yet acknowledged


def test_a_missing_object_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="b/none"):
        LocalStore(tmp_path).get("b/none")
